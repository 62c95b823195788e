// Runs every audit of the `graphql-http` suite against URL and fails unless each one passes.
// Usage: GRAPHQL_URL=http://127.0.0.1:7700/graphql HIVEWARD_TOKEN=… node audit.mjs
import { serverAudits } from 'graphql-http';

const url = process.env.GRAPHQL_URL;
if (!url) {
  console.error('set GRAPHQL_URL to the GraphQL endpoint');
  process.exit(2);
}
const token = process.env.HIVEWARD_TOKEN;
const authorised = (input, init = {}) => {
  const headers = new Headers(init.headers);
  if (token) headers.set('authorization', `Bearer ${token}`);
  return fetch(input, { ...init, headers });
};

let bad = 0;
const audits = serverAudits({ url, fetchFn: authorised });
for (const audit of audits) {
  const result = await audit.fn();
  if (result.status === 'ok') continue;
  bad += 1;
  console.log(`${result.status.toUpperCase()} ${result.id} ${result.name}: ${result.reason}`);
}
console.log(`${audits.length - bad} of ${audits.length} audits passed`);
process.exit(bad === 0 ? 0 : 1);
