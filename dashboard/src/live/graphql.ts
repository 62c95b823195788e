// Documents with types from the schema snapshot (`npm run types` makes schema.d.ts from it).
import { initGraphQLTada } from 'gql.tada';
import type { introspection } from './schema';

export const graphql = initGraphQLTada<{
  introspection: introspection;
  disableMasking: true;
  scalars: { BigInt: number; Cursor: string; DateTime: string; JSON: unknown };
}>();

export type { ResultOf, TadaDocumentNode, VariablesOf } from 'gql.tada';
