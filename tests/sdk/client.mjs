// Drives a gateway with one of the official TypeScript SDK's clients; prints one JSON document of what it saw.
//   client.mjs SDK GATEWAY CA CERTIFICATE KEY UPSTREAM=TOOL...
// SDK: "TypeScript 1.x", or "TypeScript 2.x" and how it finds out which revision to speak: "legacy" or "auto".
// TOOL: what asks the user something, at that upstream. OSTIARY_MODULES: a node_modules folder.
import fs from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(process.env.OSTIARY_MODULES + '/');
const { Agent, fetch: fetchThrough } = require('undici');
const [sdk, gateway, ca, cert, key, ...upstreams] = process.argv.slice(2);

const agent = new Agent({ connect: { ca: fs.readFileSync(ca), cert: fs.readFileSync(cert), key: fs.readFileSync(key) } });
const fetch = (url, init) => fetchThrough(url, { ...init, dispatcher: agent });
const token = (await (await fetch(`${gateway}/auth/token`)).json()).access_token;

/** A connected client for that path; `asked` answers what a server asks of the user. */
async function connect(path, asked) {
  const options = { fetch, requestInit: { headers: { authorization: `Bearer ${token}` } } };
  const url = new URL(gateway + path);
  const info = { name: 'typescript', version: sdk };
  if (sdk === 'TypeScript 1.x') {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const { ElicitRequestSchema } = require('@modelcontextprotocol/sdk/types.js');
    const client = new Client(info, { capabilities: { elicitation: {} } });
    client.setRequestHandler(ElicitRequestSchema, asked);
    const transport = new StreamableHTTPClientTransport(url, options);
    await client.connect(transport);
    client.call = (name, args, options) => client.callTool({ name, arguments: args }, undefined, options);
    return { client, version: transport.protocolVersion };
  }
  const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
  const versionNegotiation = { mode: sdk.split(' ').at(-1) };
  const client = new Client(info, { capabilities: { elicitation: {} }, versionNegotiation });
  client.setRequestHandler('elicitation/create', asked);
  await client.connect(new StreamableHTTPClientTransport(url, options));
  client.call = (name, args, options) => client.callTool({ name, arguments: args }, options);
  return { client, version: client.getNegotiatedProtocolVersion() };
}

const text = (result) => result.content[0].text;

/** What the promise failed with. */
async function failure(promise) {
  try {
    await promise;
    return 'it did not fail';
  } catch (error) {
    return error.message;
  }
}

/** Call, and cancel once the call has made progress; what became of it. */
async function cancelled(client) {
  const caller = new AbortController();
  const call = client.call('count', { steps: 200, seconds: 60 }, { signal: caller.signal, onprogress: () => caller.abort('enough') });
  return failure(call);
}

/** One of each, at one upstream. */
async function oneOfEach(upstream, asking) {
  const asked = [];
  const { client, version } = await connect(`/mcp/${upstream}`, async (request) => {
    asked.push(request.params.message);
    return { action: 'accept', content: { colour: 'blue', wish: 'rain' } };
  });
  const progress = [];
  const saw = {
    version,
    tools: (await client.listTools()).tools.map((tool) => tool.name),
    prompts: (await client.listPrompts()).prompts.map((prompt) => prompt.name),
    resources: (await client.listResources()).resources.map((resource) => resource.uri),
    templates: (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate),
    echo: text(await client.call('echo', { text: 'ünï ☃' })),
    counted: text(await client.call('count', { steps: 3, seconds: 0.1 }, { onprogress: ({ progress: done }) => progress.push(done) })),
    progress,
    answered: text(await client.call(asking, {})),
    asked,
    prompt: (await client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } })).messages[0].content.text,
    resource: (await client.readResource({ uri: 'everything://static' })).contents[0].text,
    item: (await client.readResource({ uri: 'everything://item/7' })).contents[0].text,
    secret: await failure(client.readResource({ uri: 'everything://secret' })),
    hidden: await failure(client.call('fail', {})),
    cancelled: await cancelled(client),
    after: text(await client.call('echo', { text: 'still here' })),
  };
  await client.close();
  return saw;
}

const { client } = await connect('/mcp', async () => ({ action: 'decline' }));
const saw = { all: (await client.listTools()).tools.map((tool) => tool.name) };
await client.close();
for (const [upstream, asking] of upstreams.map((word) => word.split('='))) saw[upstream] = await oneOfEach(upstream, asking);
console.log(JSON.stringify(saw));
await agent.close();
