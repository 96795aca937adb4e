"""Containers and decoders of sound: what a file is, where its samples lie, and how they are decoded.

`kinds` tells from the first bytes what a file is. `wav`, `chunks` (aiff, caf), `flac`, `ogg` and `mp3` find where the
samples begin and end, whatever a header says of it; `webm` and `mp4` look into the containers that FFmpeg reads, and
`concatenated` finds whole files put together. `libsndfile` decodes what it can, `ffmpeg` the rest.
"""
