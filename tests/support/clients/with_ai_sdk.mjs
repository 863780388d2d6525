// Vercel's AI SDK, with its provider for compatible servers. NODE_MODULES says where both are installed.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { generateText, streamText } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");

const { BASE_URL: baseURL, API_KEY: apiKey } = process.env;
const model = createOpenAICompatible({ name: "thumbloop", baseURL, apiKey })("deployed");
const asked = { model, system: "Be kind.", prompt: "Hello", temperature: 0, maxOutputTokens: 12 };
const { text, response } = await generateText(asked);
let streamed = "";
for await (const piece of streamText(asked).textStream) streamed += piece;
console.log(JSON.stringify([{ whole: text, id: response.id }, { whole: streamed }]));
