// What the cases know of the peer, and how they fill it.

import assert from "node:assert/strict";

export const url = process.env.PEER_URL;
export const chatModel = process.env.PEER_CHAT;
export const embedder = process.env.PEER_EMBEDDER;
export const endless = { grammar: process.env.PEER_ENDLESS };
export const ask = [{ role: "user", content: "What is the capital of Norway?" }];
export const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};

export async function inFlight() {
  const answer = await fetch(`${url}/health`);
  return (await answer.json()).in_flight;
}

// Returns when the peer runs and holds back this many requests.
export async function untilInFlight(count) {
  for (let tries = 0; tries < 600; tries++) {
    if ((await inFlight()) === count) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`there were never ${count} requests in flight`);
}

// Takes every place of the peer; returns what gives them back.
export async function fill() {
  const controller = new AbortController();
  const body = JSON.stringify({ model: chatModel, messages: ask, stream: true, ...endless });
  const headers = { "content-type": "application/json" };
  const full = Number(process.env.PEER_FULL);
  for (let place = 0; place < full; place++) {
    fetch(`${url}/chat/completions`, { method: "POST", headers, body, signal: controller.signal }).catch(() => {});
  }
  await untilInFlight(full);
  return () => controller.abort();
}
