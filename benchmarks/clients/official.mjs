// The official client for Node.
import fs from "node:fs";
import OpenAI from "openai";

const { URL: baseURL, KEY: apiKey, MODEL, BASE, ROWS } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const question = "What is the weather like in Madrid?";
const messages = [{ role: "user", content: question }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const named = { name: "get_weather", description: "Weather now.", parameters };
const tools = [{ type: "function", function: named }];
const found = {};

async function step(name, what) {
  try {
    await what();
    found[name] = "works";
  } catch (error) {
    found[name] = `${error.name}: ${error.message}`.slice(0, 300);
  }
}

function must(holds, said) {
  if (!holds) throw new Error(JSON.stringify(said));
}

await step("lifecycle", async () => {
  const file = await client.files.create({ file: fs.createReadStream(ROWS), purpose: "fine-tune" });
  const hyperparameters = { n_epochs: 1, batch_size: 12 };
  const method = { type: "supervised", supervised: { hyperparameters } };
  let job = await client.fineTuning.jobs.create({ model: BASE, training_file: file.id, method });
  while (!["succeeded", "failed"].includes(job.status)) {
    await new Promise((done) => setTimeout(done, 200));
    job = await client.fineTuning.jobs.retrieve(job.id);
  }
  must((await client.models.retrieve(job.fine_tuned_model)).id === job.fine_tuned_model, job);
  must((await client.models.delete(job.fine_tuned_model)).deleted, job);
});
await step("stream", async () => {
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model: BASE, messages, max_tokens: 20, stream: true }))
    text += chunk.choices[0].delta.content ?? "";
  must(text, text);
});
await step("structured output", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "city", schema: parameters, strict: true } };
  const made = await client.chat.completions.parse({ model: MODEL, messages, response_format, max_tokens: 60, temperature: 0 });
  must(typeof made.choices[0].message.parsed.city === "string", made);
});
await step("tools", async () => {
  for (const tool_choice of ["auto", "required"]) {
    const made = await client.chat.completions.create({ model: MODEL, messages, tools, tool_choice, max_tokens: 60, temperature: 0 });
    must(JSON.parse(made.choices[0].message.tool_calls[0].function.arguments).city === "Madrid", made);
  }
  const message = await client.chat.completions.stream({ model: MODEL, messages, tools, max_tokens: 60, temperature: 0 }).finalMessage();
  must(JSON.parse(message.tool_calls[0].function.arguments).city === "Madrid", message);
});
await step("responses", async () => {
  const request = { model: MODEL, input: question, tools: [{ type: "function", strict: true, ...named }], temperature: 0 };
  const made = await client.responses.create(request);
  must(JSON.parse(made.output[0].arguments).city === "Madrid", made);
  const streamed = await client.responses.stream(request).finalResponse();
  must(streamed.output[0].name === "get_weather", streamed);
});
console.log(JSON.stringify(found));
