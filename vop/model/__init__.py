"""The model: a frozen CLIP with prompts, from pixels and texts to unit embeddings.

Names of tensors and arrays end in their shape, in all of the project:

    B  pairs of a batch, or sequences     F  frames of a video            P  prompt length
    L  visual tokens of a frame           T  text tokens                  M  patches, or captions
    N  videos, or frames of all videos    R  rows of a sequence read      S  keys of a sequence: prompts and tokens
    D  width of a tower                   E  width of the joint space     G  sets of prompts
    K  the best of a ranking, or layers   H W C  pixels, and heads H      d  width of a head

`frames_BFHWC`, `tokens_BFLD`, `video_NE`; a digit is an axis of that length (`mask_B11S`).
"""
