import { expect, test } from 'vitest';
import { type Actor, flatten, restarted } from './flat';

const actor = (path: string, children: Actor[] = [], more: Partial<Actor> = {}): Actor => ({
  path,
  name: path.split('/').at(-1) ?? path,
  kind: 'actor',
  key: null,
  entityName: null,
  status: 'RUNNING',
  restarts: 0,
  note: null,
  lastFailure: null,
  children,
  ...more,
});

const tree = actor('node', [
  actor('node/agents', [actor('node/agents/one'), actor('node/agents/two')]),
  actor('node/roster'),
]);
const paths = (find: string, collapsed: string[] = []) => flatten(tree, new Set(collapsed), find).map(({ id }) => id);

test('what is below a collapsed supervisor is not shown', () => {
  expect(paths('', ['node/agents'])).toEqual(['node', 'node/agents', 'node/roster']);
});

test('a search shows what matches and what leads to it, also below what is collapsed', () => {
  expect(paths('two', ['node/agents'])).toEqual(['node', 'node/agents', 'node/agents/two']);
  expect(paths('nobody')).toEqual([]);
  expect(paths('agents')).toEqual(['node', 'node/agents', 'node/agents/one', 'node/agents/two']);
});

test('a restart is told once, and a new actor is not one', () => {
  const first = restarted(new Map(), tree);
  expect(first.grown).toEqual([]);
  const later = actor('node', [actor('node/roster', [], { restarts: 1 }), actor('node/new', [], { restarts: 3 })]);
  const second = restarted(first.now, later);
  expect(second.grown).toEqual(['node/roster']);
  expect(restarted(second.now, later).grown).toEqual([]);
});
