"""How tokens see one another: the attention of a layer, its metadata, the layout of its cache."""
