"""Recorded episodes on disk, a file each, read by memory map: what policies can learn from besides their own play."""

from machina.demonstrations.demonstration_set import DemonstrationSet, Refusal, check_suits, load_set
from machina.demonstrations.episode import EpisodeHeader, RecordedEpisode, Who, write_episode
from machina.demonstrations.recorder import EpisodeRecorder

__all__ = [
    "DemonstrationSet",
    "EpisodeHeader",
    "EpisodeRecorder",
    "RecordedEpisode",
    "Refusal",
    "Who",
    "check_suits",
    "load_set",
    "write_episode",
]
