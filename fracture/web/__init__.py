"""The page without Gradio: its HTML, CSS and JavaScript, its pictures, and readings for it.

`app.py` wires these into Gradio; nothing here imports Gradio, and torch only once it is needed.
"""
