"""What a chat template says about its model: the format of its calls, checked or derived."""
