// The Vercel AI SDK, unchanged, against a real peer: by /v1/responses, its default, and by /v1/chat/completions.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { chatModel, embedder, fill, parameters, untilInFlight, url } from "./peer.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const peer = createOpenAI({ baseURL: url, apiKey: "unused" });
const city = z.object({ name: z.string(), people: z.number().int() });
const weather = (asked) =>
  tool({
    description: "Tells the weather of a city.",
    inputSchema: jsonSchema(parameters),
    execute: async (given) => {
      asked.push(given);
      return "rain";
    },
  });

for (const [name, model] of [["responses", peer(chatModel)], ["chat", peer.chat(chatModel)]]) {
  test(`${name}: a text`, async () => {
    const answer = await generateText({ model, prompt: "Hello.", maxOutputTokens: 64, maxRetries: 0 });
    assert.equal(typeof answer.text, "string");
    assert.ok(answer.usage.outputTokens > 0);
    assert.ok(["stop", "length"].includes(answer.finishReason));
  });

  test(`${name}: a conversation`, async () => {
    const messages = [{ role: "user", content: "Hello." }];
    const first = await generateText({ model, messages, maxOutputTokens: 32, maxRetries: 0 });
    messages.push(...first.response.messages, { role: "user", content: "Go on." });
    const second = await generateText({ model, messages, maxOutputTokens: 32, maxRetries: 0 });
    assert.equal(typeof second.text, "string");
  });

  test(`${name}: a stream`, async () => {
    const stream = streamText({ model, prompt: "Hello.", maxOutputTokens: 64, maxRetries: 0 });
    const kinds = [];
    for await (const part of stream.fullStream) kinds.push(part.type);
    assert.ok(!kinds.includes("error"), kinds.join());
    assert.equal(kinds.at(-1), "finish");
    assert.ok((await stream.usage).outputTokens > 0);
  });

  test(`${name}: tools in two steps`, async () => {
    const asked = [];
    const answer = await generateText({
      model,
      prompt: "Weather?",
      tools: { weather: weather(asked) },
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
      stopWhen: stepCountIs(2),
      maxRetries: 0,
    });
    assert.equal(answer.steps.length, 2);
    assert.equal(answer.steps[0].finishReason, "tool-calls");
    assert.equal(typeof asked[0].city, "string");
    assert.ok(Number.isInteger(asked[0].days));
  });

  test(`${name}: tools in a stream`, async () => {
    const asked = [];
    const stream = streamText({
      model, prompt: "Weather?", tools: { weather: weather(asked) }, toolChoice: "required", maxRetries: 0,
    });
    const kinds = [];
    for await (const part of stream.fullStream) kinds.push(part.type);
    assert.ok(kinds.includes("tool-input-delta") && kinds.includes("tool-call"), kinds.join());
    assert.ok(asked.length >= 1);
  });

  test(`${name}: a structured answer`, async () => {
    const answer = await generateText({
      model, prompt: "A city?", output: Output.object({ schema: city }), maxRetries: 0,
    });
    assert.equal(typeof answer.output.name, "string");
  });

  test(`${name}: a structured answer in a stream`, async () => {
    const stream = streamText({ model, prompt: "A city?", output: Output.object({ schema: city }), maxRetries: 0 });
    let last;
    for await (const part of stream.partialOutputStream) last = part;
    assert.ok(Number.isInteger(last.people));
  });

  test(`${name}: errors`, async () => {
    const unknown = name === "chat" ? peer.chat("nobody") : peer("nobody");
    await assert.rejects(generateText({ model: unknown, prompt: "x", maxRetries: 0 }), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 404);
      assert.match(error.message, /nobody/);
      return true;
    });
  });

  test(`${name}: a full peer is asked again`, async () => {
    const release = await fill();
    const statuses = [];
    const watched = async (...given) => {
      const answer = await fetch(...given);
      statuses.push(answer.status);
      if (answer.status === 429) release();
      return answer;
    };
    const patient = createOpenAI({ baseURL: url, apiKey: "unused", fetch: watched });
    await generateText({
      model: name === "chat" ? patient.chat(chatModel) : patient(chatModel), prompt: "x", maxOutputTokens: 16,
    });
    assert.deepEqual(statuses, [429, 200]);
  });

  test(`${name}: an abandoned stream stops the work`, async () => {
    const controller = new AbortController();
    const prompt = "Count for ever.";
    const endlessly = createOpenAI({
      baseURL: url,
      apiKey: "unused",
      fetch: (target, init) => {
        const body = { ...JSON.parse(init.body), grammar: process.env.PEER_ENDLESS };
        return fetch(target, { ...init, body: JSON.stringify(body) });
      },
    });
    const endless = name === "chat" ? endlessly.chat(chatModel) : endlessly(chatModel);
    const stream = streamText({ model: endless, prompt, abortSignal: controller.signal, maxRetries: 0 });
    for await (const part of stream.fullStream) {
      if (part.type === "text-delta") controller.abort();
    }
    await untilInFlight(0);
  });
}

test("embeddings", async () => {
  const answer = await embedMany({
    model: peer.embedding(embedder), values: ["hello", "world"], maxRetries: 0,
  });
  assert.equal(answer.embeddings.length, 2);
  assert.ok(answer.embeddings[0].length > 0);
  assert.ok(answer.usage.tokens > 0);
});
