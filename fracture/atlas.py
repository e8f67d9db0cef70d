"""A one-page atlas of fracture patterns, each with a simulated film.

The words are our own; where the definitions come from is in `SOURCES`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fracture.simulate import PATTERNS, Settings

HOW_TO_READ_A_CODE = (
    "A code goes from coarse to fine: the bone (1 arm, 2 forearm, 3 thigh, 4 leg), the part of it "
    "(1 upper end, 2 shaft, 3 lower end), then the type. In the shaft A is simple, B a wedge and "
    "C multifragmentary; A1, A2, A3 mean spiral, oblique, transverse. So 42A3 is a transverse "
    "fracture of the shin's shaft. R, U or F after the bone's number say radius, ulna or fibula: "
    "2R3 is the lower end of the radius. Children's codes name the part with a letter (E, M or D: "
    "growth plate and beyond, the flare, the shaft) and then the child's pattern."
)

SOURCES = {
    "AO/OTA": "Meinberg E, Agel J, Roberts C, Karam M, Kellam J: Fracture and Dislocation "
    "Classification Compendium, 2018. J Orthop Trauma 2018; 32 (Suppl 1): S1-S170. "
    "doi:10.1097/BOT.0000000000001063",
    "AO PCCF": "Joeris A, Lutz N, Blumenthal A, Slongo T, Audigé L: The AO Pediatric Comprehensive "
    "Classification of Long Bone Fractures (PCCF). Acta Orthop 2017; 88: 123-128. "
    "doi:10.1080/17453674.2016.1258532",
    "Randsborg": "Randsborg PH, Sivertsen EA: Distal radius fractures in children: substantial "
    "difference in stability between buckle and greenstick fractures. Acta Orthop 2009; 80: "
    "585-589. doi:10.3109/17453670903316850",
}


@dataclass(frozen=True)
class Entry:
    """One pattern.

    pattern:    its name in the simulator. title: its name for people.
    definition: one or two sentences. look_for: what to check on a film, one thing each.
    trap:       what makes it look like another pattern.
    type:       the part of the code that names the pattern, in words.
    settings:   of the film that shows it. sources: keys of `SOURCES`.
    """

    pattern: str
    title: str
    definition: str
    look_for: tuple[str, ...]
    trap: str
    type: str
    settings: Settings
    sources: tuple[str, ...] = ("AO/OTA",)

    @property
    def label(self) -> str:
        """Simple, Comminuted or No fracture."""
        return PATTERNS[self.pattern]


def entries() -> tuple[Entry, ...]:
    """All patterns of the simulator, the simple ones first."""
    return (
        Entry(
            "transverse",
            "Transverse",
            "The shaft has snapped straight across: the break leaves a right angle to the bone's "
            "axis by less than 30 degrees, and two pieces remain.",
            (
                "Follow each cortex from end to end: it is interrupted once, and on both sides at "
                "about the same height.",
                "The two ends are blunt, with small teeth at most.",
            ),
            "If the ends have slid past each other they overlap in one bright band, and the line "
            "itself cannot be seen. The second view shows it.",
            "A3: simple, transverse",
            Settings(bone="humerus", pattern="transverse", displacement=4, seed=21),
        ),
        Entry(
            "oblique",
            "Oblique",
            "One slanting break, 30 degrees or more away from straight across, with two pieces.",
            (
                "The line crosses the shaft on a slope and reaches the two cortices at different "
                "heights.",
                "Both ends are pointed on opposite sides and would fit together.",
            ),
            "Seen from the side to which it slopes, an oblique break can look transverse: what you "
            "see is only its shadow.",
            "A2: simple, oblique",
            Settings(bone="femur", pattern="oblique", displacement=6, seed=22),
        ),
        Entry(
            "spiral",
            "Spiral",
            "A twist has torn the bone along a line that winds once around the shaft. There are "
            "still two pieces, each with a long tip.",
            (
                "Two lines on one film, one steep and one long, are the front and the back of the "
                "same winding break.",
                "Long, sharp tips on both pieces; the fragments are turned against each other.",
            ),
            "The front and back lines cross and seem to cut out a third piece. Before you say "
            "wedge, look for a piece with edges of its own on all sides.",
            "A1: simple, spiral",
            Settings(bone="tibia", pattern="spiral", displacement=5, seed=23),
        ),
        Entry(
            "greenstick",
            "Greenstick",
            "A child's bone bends like a green twig: the cortex on the stretched side has torn, "
            "the one on the other side holds.",
            (
                "A break that begins at one cortex and ends inside the bone.",
                "The bone is bent, and the intact side is on the inside of the bend.",
            ),
            "On a view along the bend the bone looks straight. Unlike a torus fracture, it may go "
            "on bending in plaster.",
            "child's code, shaft, 2.1: greenstick",
            Settings(bone="radius", pattern="greenstick", seed=24),
            ("AO PCCF", "Randsborg"),
        ),
        Entry(
            "torus",
            "Torus (buckle)",
            "A child's bone was pressed along its length: near the end, where the cortex is thin, "
            "it has bulged without breaking through.",
            (
                "Run along the outline towards the joint: a small bump or fold, on one or both "
                "sides, where the curve should be smooth.",
                "No line through the bone, no step.",
            ),
            "It is the easiest fracture to miss, for people and for models: nothing is dark, only "
            "the outline is wrong.",
            "child's code, end of the bone, 2.1: incomplete",
            Settings(bone="radius", pattern="torus", seed=25),
            ("AO PCCF", "Randsborg"),
        ),
        Entry(
            "wedge",
            "Wedge (butterfly)",
            "Three pieces or more, yet the two main ones still touch: between them a triangle has "
            "come out of one side of the shaft, in one piece or in several.",
            (
                "A piece with edges of its own, broad at one cortex and pointed towards the other.",
                "One cortex is interrupted twice, the other once.",
                "Put the main pieces together in your mind: they meet, and the bone keeps its "
                "length.",
            ),
            "From the front or from behind, the wedge lies before the shaft and its outline "
            "vanishes. Turn the projection and it comes out.",
            "B2: intact wedge; B3: wedge in pieces",
            Settings(bone="femur", pattern="wedge", displacement=7, seed=26),
        ),
        Entry(
            "segmental",
            "Segmental",
            "The shaft is broken through at two levels, and a whole piece of tube lies loose "
            "between the main pieces.",
            (
                "Two complete breaks, each crossing both cortices, some way apart.",
                "The piece between them has its own two cortices and may be tilted.",
            ),
            "Stop at the first break and you will call it simple. Read every film to its edges.",
            "C2: multifragmentary, intact segment",
            Settings(bone="tibia", pattern="segmental", displacement=4, seed=27),
        ),
        Entry(
            "multifragmentary",
            "Multifragmentary",
            "The bone has burst: many pieces at one place, and without them the main pieces "
            "would not meet.",
            (
                "Several lines that run in different directions and join.",
                "Small fragments beside the shaft, with gaps between them.",
                "The bone is often shortened.",
            ),
            "Pieces hide behind each other. Count them on two views, and expect more than you "
            "count.",
            "C3: multifragmentary, segment in pieces (in the shaft); A3 at the lower end, outside "
            "the joint",
            Settings(bone="humerus", pattern="multifragmentary", displacement=5, seed=28),
        ),
        Entry(
            "intact",
            "No fracture",
            "Both cortices run on without a step, a gap or a bump. Nothing broken is seen, which "
            "is not the same as nothing broken.",
            (
                "Follow every outline once around, each bone on the film.",
                "Lines that go with the anatomy: a child's growth plate, the channel of a vessel, "
                "the edge of a muscle.",
            ),
            "A model that is asked for a heatmap of a fracture draws one here as well. Heat is not "
            "a finding.",
            "none",
            Settings(bone="radius", pattern="intact", seed=29),
            (),
        ),
    )
