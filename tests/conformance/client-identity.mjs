// Gives every request of the suite a client certificate and, where set, a bearer token: it has no options for them.
// OSTIARY_CA, OSTIARY_CERT, OSTIARY_KEY: PEM files. OSTIARY_TOKEN: a JWT. OSTIARY_MODULES: a node_modules folder.
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';

const { Agent, setGlobalDispatcher } = createRequire(process.env.OSTIARY_MODULES + '/')('undici');
const pem = (name) => (process.env[name] ? fs.readFileSync(process.env[name]) : undefined);
const token = process.env.OSTIARY_TOKEN;

const withToken = (headers) => {
  const field = ['authorization', 'Bearer ' + token];
  if (Array.isArray(headers)) return [...headers, ...field];
  if (typeof headers?.[Symbol.iterator] === 'function') return [...headers, field];
  return { ...headers, [field[0]]: field[1] };
};

const identity = { ca: pem('OSTIARY_CA'), cert: pem('OSTIARY_CERT'), key: pem('OSTIARY_KEY') };
const agent = new Agent({ connect: identity });
const bearing = (dispatch) => (options, handler) => dispatch({ ...options, headers: withToken(options.headers) }, handler);
setGlobalDispatcher(token ? agent.compose(bearing) : agent);

// One scenario sends its requests by node:http, to a URL of https, too.
if (identity.cert) {
  http.request = (options, answered) => {
    const headers = token ? withToken(options.headers) : options.headers;
    return https.request({ ...options, ...identity, headers }, answered);
  };
}
