"""What models are built of: linear layers and how they are stored, norms, embeddings, rotation."""
