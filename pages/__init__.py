"""The tabs of the app: each module builds one page out of Gradio parts and the package `fracture`.

A page knows Gradio and never touches torch; what needs torch goes through `pages.models`.
"""
