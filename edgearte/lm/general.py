"""A few ordinary texts of different kinds, for whoever has none of a task."""

from __future__ import annotations

# Enough ordinary text to tell a broken conversion from a sound one; for a figure that means something for a task, bring its texts.
GENERAL = (
    "The river rises in the hills to the north, passes two small towns and a mill, and reaches the sea after ninety kilometres.",
    "To make the dough, mix the flour with a little salt, add warm water slowly, and knead it until it no longer sticks to the hands.",
    "def mean(values):\n    if not values:\n        raise ValueError('no values')\n    return sum(values) / len(values)\n",
    "Question: A train leaves at 9:40 and arrives at 11:15. How long does the journey take?\nAnswer: One hour and 35 minutes.",
    "She closed the window, because the rain had begun to fall on the letters that lay on the table, and called her brother.",
    "Water boils at a lower temperature on a mountain than at the coast, since the pressure of the air is lower there.",
    "| city | inhabitants |\n|---|---|\n| Oslo | 709000 |\n| Turin | 841600 |\n| Gdansk | 486000 |\n",
    "Dear Ms Okafor, thank you for your order. The parcel was sent this morning and should arrive on Thursday. Kind regards, Ana",
)
