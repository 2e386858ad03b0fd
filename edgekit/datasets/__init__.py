"""Representative datasets and declarations: real inputs, streamed, and how a picture becomes the model's input."""
