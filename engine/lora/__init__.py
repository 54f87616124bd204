"""Low-rank adapters: PEFT folders, the bank of adapters on the device, names and their weights."""
