// Validates the command line's GraphQL documents against the committed schema.
import { readdirSync, readFileSync } from 'node:fs';
import { buildSchema, parse, validate } from 'graphql';

const gateway = new URL('../../gateway/', import.meta.url);
const schema = buildSchema(readFileSync(new URL('schema.graphql', gateway), 'utf8'));
const folder = new URL('cli/src/graphql/', gateway);
const code = new URL('cli/src/', gateway);
// Those of a noun lie in its file, where it has few.
const inline = readdirSync(code)
  .filter((name) => name.endsWith('.rs'))
  .flatMap((name) => {
    const texts = readFileSync(new URL(name, code), 'utf8').matchAll(/: &str = r#"(\s*(?:query|mutation|fragment|subscription)\b.*?)"#/gs);
    return [...texts].map(([, text]) => [name, text]);
  });
const files = readdirSync(folder).map((name) => [name, readFileSync(new URL(name, folder), 'utf8')]);
let bad = 0;
for (const [name, text] of [...files, ...inline]) {
  const document = parse(text);
  for (const error of validate(schema, document)) {
    bad += 1;
    console.log(`${name}:${error.locations?.[0]?.line}: ${error.message}`);
  }
}
process.exit(bad === 0 ? 0 : 1);
