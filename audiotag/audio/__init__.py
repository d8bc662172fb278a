"""Any container as blocks of float32 samples at the model's rate; the only importer of soundfile, av and soxr.

    path or stream --opening--> decoder --> [frame, channel] --reading--> [frame, row] --soxr--> blocks [row, sample]

A decoder is chosen by content: libsndfile (`soundfile`) first; FFmpeg (`av`) for what it rejects, for streams that
cannot seek, for Ogg with several streams, and for MP3, of which libsndfile 1.2.2 drops the end where a variable bit
rate has no Xing header, and writes to stderr. Nothing is allocated from what a header claims. Here a frame is one
sample of every channel at the file's own rate, as in soundfile. `writing` goes the other way. Neighbours: `inputs`
names files, `windows` cuts the blocks.
"""

from audiotag.audio.decoder import FloatArray
from audiotag.audio.opening import Source, reopenable
from audiotag.audio.reading import AudioStream, open_audio, probe, reaches_end, read_audio, read_excerpts, resample
from audiotag.audio.waveform import Waveform
from audiotag.audio.writing import encode_mp3, write_audio

__all__ = [
    "AudioStream",
    "FloatArray",
    "Source",
    "Waveform",
    "encode_mp3",
    "open_audio",
    "probe",
    "reaches_end",
    "read_audio",
    "read_excerpts",
    "reopenable",
    "resample",
    "write_audio",
]
