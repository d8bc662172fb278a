"""Results with events as one HTML page that needs nothing but itself, to look at and to listen to.

    results --excerpts--> stretches around events --picture, sound--> PNG, MP3 --page--> HTML

A page holds the likeliest excerpts, not whole recordings: a night with ten calls becomes ten pictures with sound.
Neighbours: `events` found what is shown, `writers` give the same results to programs.
"""

from audiotag.report.excerpts import Excerpt, excerpts_of
from audiotag.report.page import Shown, page_of
from audiotag.report.rendering import render

__all__ = ["Excerpt", "Shown", "excerpts_of", "page_of", "render"]
