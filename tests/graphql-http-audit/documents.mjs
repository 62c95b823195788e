// Validates the command line's GraphQL documents against the committed schema.
import { readdirSync, readFileSync } from 'node:fs';
import { buildSchema, parse, validate } from 'graphql';

const gateway = new URL('../../gateway/', import.meta.url);
const schema = buildSchema(readFileSync(new URL('schema.graphql', gateway), 'utf8'));
const folder = new URL('cli/src/graphql/', gateway);
let bad = 0;
for (const name of readdirSync(folder)) {
  const document = parse(readFileSync(new URL(name, folder), 'utf8'));
  for (const error of validate(schema, document)) {
    bad += 1;
    console.log(`${name}:${error.locations?.[0]?.line}: ${error.message}`);
  }
}
process.exit(bad === 0 ? 0 : 1);
