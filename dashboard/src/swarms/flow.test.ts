import { expect, test } from 'vitest';
import type { FeedEvent } from '../live/feed';
import { beat, flows, OVER_MS } from './flow';

const event = (kind: string, agent: string | null, at = 0): FeedEvent => ({
  cursor: '1',
  at: new Date(at).toISOString(),
  kind,
  stream: 'swarm_a',
  task: 'task_a',
  agent,
  by: null,
});

test('only what a coordinator and its agents told each other counts', () => {
  expect(beat(event('TaskAssigned', 'agent_a'), 'swarm_a')?.kind).toBe('assigned');
  expect(beat(event('TaskAttemptEnded', 'agent_a'), 'swarm_a')?.kind).toBe('ended');
  expect(beat(event('TaskAssigned', 'agent_a'), 'swarm_b')).toBeUndefined();
  expect(beat(event('TaskSubmitted', null), 'swarm_a')).toBeUndefined();
});

test('what is older than the window does not count', () => {
  const beats = [event('TaskAssigned', 'agent_a', 1_000), event('TaskAssigned', 'agent_a', OVER_MS + 500)]
    .map((each) => beat(each, 'swarm_a'))
    .filter((each) => each !== undefined);
  expect(flows(beats, OVER_MS + 2_000).get('agent_a')).toEqual({ assigned: 1, ended: 0 });
});
