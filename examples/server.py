"""The endpoints besides generation: version, models, health, metrics, tokenize and detokenize."""

import os

import httpx

url = os.getenv("FORMGATE_URL", "http://127.0.0.1:8000")

with httpx.Client(base_url=url, timeout=30) as client:
    model = client.get("/v1/models").raise_for_status().json()["data"][0]
    print("version", client.get("/version").raise_for_status().json()["version"])
    print("model", model["id"], "of", model["max_model_len"], "tokens")
    print("health", client.get("/health").status_code)

    text = "Hello, 世界!"
    asked = {"model": model["id"], "prompt": text, "add_special_tokens": False}
    tokens = client.post("/tokenize", json=asked).json()
    back = client.post(
        "/detokenize", json={"model": model["id"], "tokens": tokens["tokens"]}
    ).json()
    print(f"{text!r} is {tokens['count']} tokens and back {back['prompt']!r}")

    metrics = client.get("/metrics").raise_for_status().text
    print("\n".join(line for line in metrics.splitlines() if line.startswith("vllm:num_requests")))
    print("docs", client.get("/docs").status_code)
