import { expect, test } from 'vitest';
import { byAttention } from './attention';

const agent = (name: string, status: string) => ({ id: `agent_${name}`, name, status, lastFailure: null });

test('who failed is first, then who asks, and names are in their natural order', () => {
  const agents = [
    agent('w-10', 'BUSY'),
    agent('w-2', 'BUSY'),
    agent('idle', 'IDLE'),
    agent('asks', 'BUSY'),
    agent('broken', 'FAILED'),
  ];
  expect(byAttention(agents, new Set(['agent_asks'])).map(({ name }) => name)).toEqual([
    'broken',
    'asks',
    'w-2',
    'w-10',
    'idle',
  ]);
});
