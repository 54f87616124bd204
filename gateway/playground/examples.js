// What the editors hold at first. The embedded model can answer each of them.

export const PROMPTS = {
  text: "What is the capital of France?",
  schema: "Extract the information: John Smith, 30, software engineer",
  tools: "What is the weather in Paris?",
  regex: "What is the capital of France?",
  grammar: "What is the capital of France?",
};

const pretty = (value) => JSON.stringify(value, null, 2);

export const SCHEMA = pretty({
  type: "object",
  properties: {
    name: { type: "string", minLength: 1 },
    age: { type: "integer", minimum: 0, maximum: 150 },
    occupation: { type: "string" },
  },
  required: ["name", "age", "occupation"],
  additionalProperties: false,
});

export const TOOLS = pretty([
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the current weather of a city.",
      parameters: {
        type: "object",
        properties: {
          city: { type: "string" },
          unit: { type: "string", enum: ["celsius", "fahrenheit"] },
        },
        required: ["city"],
        additionalProperties: false,
      },
    },
  },
]);

export const REGEX = "The capital( city)? of [A-Z][a-z]+ is [A-Z][a-z]+\\.";

export const GRAMMAR = `root ::= "The capital of " name " is " name ("." | "!")
name ::= [A-Z] [a-z]{2,20}
`;
