"""Score uploaded pictures with a saved model."""

import io
import os

import numpy as np
from fastapi import FastAPI, HTTPException, UploadFile
from PIL import Image, UnidentifiedImageError

from skavid import AVIDDetector
from skavid.core.calibration import p_values

detector = AVIDDetector.load(os.environ.get("MODEL", "detector.skavid"))
height, width, n_channels = detector.image_shape_
app = FastAPI()


@app.post("/score")
def score(file: UploadFile):
    try:
        picture = Image.open(io.BytesIO(file.file.read()))
        # As in the training: the same size and channels, uint8.
        picture = picture.convert("L" if n_channels == 1 else "RGB").resize((width, height))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise HTTPException(422, f"This is no picture: {error}") from error
    images = np.asarray(picture).reshape(1, height, width, n_channels)
    try:
        maps = detector.maps(images, inpainted=False)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    p_value = p_values(maps.scores, detector.normal_scores_)[0]  # without scoring it again
    return {
        "score": float(maps.scores[0]),
        "p_value": float(p_value),
        "irregular": bool(maps.mask.any()),
        "boxes": [found.box for found in maps.find(0)],
    }
