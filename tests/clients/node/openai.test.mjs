// The official JavaScript client, unchanged, against a real peer.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { ask, chatModel, embedder, endless, fill, parameters, untilInFlight, url } from "./peer.mjs";

const client = new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: 0, timeout: 60_000 });
const weather = { type: "function", function: { name: "weather", strict: true, parameters } };
const city = z.object({ name: z.string(), people: z.number().int() });

test("a chat", async () => {
  const answer = await client.chat.completions.create({ model: chatModel, messages: ask, max_tokens: 12, seed: 1 });
  assert.equal(answer.object, "chat.completion");
  assert.ok(answer.choices[0].message.content);
  assert.ok(answer.usage.completion_tokens > 0);
});

test("a chat in a stream", async () => {
  const options = { stream: true, stream_options: { include_usage: true } };
  const stream = await client.chat.completions.create({
    model: chatModel, messages: ask, max_tokens: 12, seed: 1, ...options,
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.ok(last.usage.completion_tokens > 0);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.ok(["stop", "length"].includes(chunks.at(-1).choices[0].finish_reason));
});

test("tools, run by the client", async () => {
  const asked = [];
  const run = async (given) => {
    asked.push(JSON.parse(given));
    return "rain";
  };
  const runner = client.chat.completions.runTools(
    {
      model: chatModel,
      messages: ask,
      seed: 1,
      tool_choice: { type: "function", function: { name: "weather" } },
      tools: [{ type: "function", function: { name: "weather", parameters, function: run } }],
    },
    { maxChatCompletions: 1 },
  );
  await runner.done();
  assert.ok(asked.length >= 1);
  assert.equal(typeof asked[0].city, "string");
  assert.ok(Number.isInteger(asked[0].days));
});

test("tools in a stream", async () => {
  const stream = client.chat.completions.stream({
    model: chatModel, messages: ask, seed: 1, tools: [weather], tool_choice: "required",
  });
  const answer = await stream.finalChatCompletion();
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.equal(typeof call.function.parsed_arguments.city, "string");
});

test("a structured answer", async () => {
  const answer = await client.chat.completions.parse({
    model: chatModel, messages: ask, seed: 1, response_format: zodResponseFormat(city, "city"),
  });
  assert.equal(typeof answer.choices[0].message.parsed.name, "string");
});

test("embeddings, packed and as numbers", async () => {
  const packed = await client.embeddings.create({ model: embedder, input: ["hello", "world"] });
  const numbers = await client.embeddings.create({
    model: embedder, input: ["hello", "world"], encoding_format: "float",
  });
  assert.deepEqual(packed.data.map((row) => row.index), [0, 1]);
  packed.data[0].embedding.forEach((value, place) => {
    assert.ok(Math.abs(value - numbers.data[0].embedding[place]) < 1e-5);
  });
});

test("responses", async () => {
  const first = await client.responses.create({ model: chatModel, input: "Hello.", max_output_tokens: 16, seed: 1 });
  assert.ok(first.output_text);
  const second = await client.responses.create({
    model: chatModel, input: "Go on.", previous_response_id: first.id, max_output_tokens: 16, seed: 1,
  });
  assert.equal(second.previous_response_id, first.id);
  assert.equal((await client.responses.retrieve(second.id)).id, second.id);
  const items = [];
  for await (const item of client.responses.inputItems.list(second.id, { limit: 1 })) items.push(item);
  assert.equal(items.length, 3);
  await client.responses.delete(second.id);
  await assert.rejects(client.responses.retrieve(second.id), OpenAI.NotFoundError);
});

test("responses in a stream", async () => {
  const kinds = [];
  const stream = client.responses.stream({
    model: chatModel, input: "Hello.", seed: 1, tools: [{ ...weather.function, type: "function" }],
    tool_choice: "required",
  });
  for await (const event of stream) kinds.push(event.type);
  const answer = await stream.finalResponse();
  assert.equal(kinds[0], "response.created");
  assert.equal(kinds.at(-1), "response.completed");
  assert.ok(kinds.includes("response.function_call_arguments.done"));
  const call = answer.output.find((item) => item.type === "function_call");
  assert.equal(typeof call.parsed_arguments.city, "string");
});

test("a structured response", async () => {
  const answer = await client.responses.parse({
    model: chatModel, input: "x", seed: 1, text: { format: zodTextFormat(city, "city") },
  });
  assert.equal(typeof answer.output_parsed.name, "string");
});

test("models", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes(chatModel) && names.includes("auto"));
  assert.equal((await client.models.retrieve(chatModel)).id, chatModel);
});

test("errors", async () => {
  const missing = client.chat.completions.create({ model: "nobody", messages: ask });
  await assert.rejects(missing, (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  const hot = client.chat.completions.create({ model: chatModel, messages: ask, temperature: 9 });
  await assert.rejects(hot, (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
});

test("a full peer is asked again", async () => {
  const release = await fill();
  const statuses = [];
  const watched = async (...given) => {
    const answer = await fetch(...given);
    statuses.push(answer.status);
    if (answer.status === 429) release();
    return answer;
  };
  const patient = new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: 2, fetch: watched });
  await patient.chat.completions.create({ model: chatModel, messages: ask, max_tokens: 4 });
  assert.deepEqual(statuses, [429, 200]);
});

test("a stream that is left stops the work", async () => {
  const stream = await client.chat.completions.create({ model: chatModel, messages: ask, stream: true, ...endless });
  for await (const _chunk of stream) break;
  await untilInFlight(0);
});

test("an answer that nobody waits for stops the work", async () => {
  const controller = new AbortController();
  const asked = client.chat.completions.create(
    { model: chatModel, messages: ask, ...endless }, { signal: controller.signal },
  );
  await untilInFlight(1);
  controller.abort();
  await assert.rejects(asked, OpenAI.APIUserAbortError);
  await untilInFlight(0);
});
