"""Names of the Atari games. Imports nothing."""

from __future__ import annotations

ATARI57 = (
    "alien",
    "amidar",
    "assault",
    "asterix",
    "asteroids",
    "atlantis",
    "bank_heist",
    "battle_zone",
    "beam_rider",
    "berzerk",
    "bowling",
    "boxing",
    "breakout",
    "centipede",
    "chopper_command",
    "crazy_climber",
    "defender",
    "demon_attack",
    "double_dunk",
    "enduro",
    "fishing_derby",
    "freeway",
    "frostbite",
    "gopher",
    "gravitar",
    "hero",
    "ice_hockey",
    "jamesbond",
    "kangaroo",
    "krull",
    "kung_fu_master",
    "montezuma_revenge",
    "ms_pacman",
    "name_this_game",
    "phoenix",
    "pitfall",
    "pong",
    "private_eye",
    "qbert",
    "riverraid",
    "road_runner",
    "robotank",
    "seaquest",
    "skiing",
    "solaris",
    "space_invaders",
    "star_gunner",
    "surround",
    "tennis",
    "time_pilot",
    "tutankham",
    "up_n_down",
    "venture",
    "video_pinball",
    "wizard_of_wor",
    "yars_revenge",
    "zaxxon",
)
"""The 57 games of the Atari benchmark, in alphabetical order."""

NUM_FULL_ACTIONS = 18
"""Joystick positions (9) with and without the fire button: the action set shared by all games."""

NOT_FOR_ONE = {
    "combat": "atari/combat_tank-v2",
    "joust": "atari/joust-v3",
    "maze_craze": "atari/maze_craze-v3",
    "warlords": "atari/warlords-v3",
}
"""ROMs of ale-py without a mode for one player, and what they are called in PettingZoo. The emulator ends the whole
process, without an exception, when it loads one; found by loading each ROM of ale-py 0.12.1 in its own."""
