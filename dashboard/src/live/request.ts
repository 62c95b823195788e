// One query or mutation over HTTP.
import { print } from '@0no-co/graphql.web';
import type { TadaDocumentNode } from 'gql.tada';
import { origin } from './elsewhere';
import { Problem } from './problem';
import { signOut, token } from './session';

// biome-ignore lint/suspicious/noExplicitAny: documents of any result and variables
type AnyDocument = TadaDocumentNode<any, any, any>;

const texts = new WeakMap<object, { text: string; mutation: boolean; variables: Set<string> }>();

/** The text of a document and what it is, worked out once. */
export function described(document: AnyDocument) {
  const known = texts.get(document);
  if (known) return known;
  const operation = document.definitions.find((definition) => definition.kind === 'OperationDefinition');
  const made = {
    text: print(document as never),
    mutation: operation?.operation === 'mutation',
    variables: new Set(operation?.variableDefinitions?.map((definition) => definition.variable.name.value)),
  };
  texts.set(document, made);
  return made;
}

/** Longer than the gateway's own deadline, so that its answer is what is shown. */
const TIMEOUT_MS = 40_000;

export async function request<Data, Variables>(
  document: TadaDocumentNode<Data, Variables, unknown>,
  variables: Variables,
  signal?: AbortSignal,
): Promise<Data> {
  const { text, mutation } = described(document);
  const used = token();
  let response: Response;
  let body: { data?: Data | null; errors?: unknown };
  try {
    response = await fetch(`${origin()}/graphql`, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/json',
        Accept: 'application/graphql-response+json',
        Authorization: `Bearer ${used}`,
      },
      body: JSON.stringify({ query: text, variables }),
      signal: signal ? AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]) : AbortSignal.timeout(TIMEOUT_MS),
      cache: 'no-store',
    });
    body = await response.json();
  } catch {
    throw Problem.silent(mutation);
  }
  const trace = response.headers.get('x-trace-id') ?? undefined;
  if (response.status === 401) {
    const problem = Problem.of(body.errors, trace);
    // Only if nobody has signed in with another one in the meantime.
    if (used === token()) signOut(used === '' ? undefined : `You were signed out: ${problem.message}`);
    throw problem;
  }
  if (body.errors || !body.data) throw Problem.of(body.errors, trace);
  return body.data;
}

/** For `operationId`: one per intention, kept when it is tried again. */
export function operationId(): string {
  // `crypto.randomUUID` is missing where a page came over plain HTTP from another host.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `dashboard-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}
