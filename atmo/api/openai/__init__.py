"""OpenAI's API: chat, completions, responses, embeddings, images, audio, models."""
