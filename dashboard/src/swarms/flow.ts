// What flowed between a swarm's coordinator and its agents, counted from the ledger's events over the last minute.
import { useEffect, useState } from 'react';
import { type FeedEvent, onEvents } from '../live/feed';
import { useNow } from '../ui/time';

export const OVER_MS = 60_000;

export type Flow = { assigned: number; ended: number };
type Beat = { agent: string; kind: 'assigned' | 'ended'; at: number };

export function beat(event: FeedEvent, swarm: string): Beat | undefined {
  if (event.stream !== swarm || !event.agent) return undefined;
  if (event.kind === 'TaskAssigned') return { agent: event.agent, kind: 'assigned', at: Date.parse(event.at) };
  if (event.kind === 'TaskAttemptEnded') return { agent: event.agent, kind: 'ended', at: Date.parse(event.at) };
  return undefined;
}

export function flows(beats: readonly Beat[], now: number): Map<string, Flow> {
  const found = new Map<string, Flow>();
  for (const { agent, kind, at } of beats) {
    if (at < now - OVER_MS) continue;
    const flow = found.get(agent) ?? { assigned: 0, ended: 0 };
    flow[kind] += 1;
    found.set(agent, flow);
  }
  return found;
}

/** Beats that are kept; a rate beyond this is shown as at least that. */
const BEATS_MAX = 60_000;

export function useFlows(swarm: string): { flows: Map<string, Flow>; since: number } {
  const [state, setState] = useState<{ beats: Beat[]; since: number }>(() => ({ beats: [], since: Date.now() }));
  const now = useNow();
  useEffect(() => {
    setState({ beats: [], since: Date.now() });
    return onEvents((events) => {
      const found = events.flatMap((event) => beat(event, swarm) ?? []);
      if (found.length === 0) return;
      const from = Date.now() - OVER_MS;
      setState((before) => ({
        ...before,
        beats: [...before.beats.filter(({ at }) => at > from), ...found].slice(-BEATS_MAX),
      }));
    });
  }, [swarm]);
  return { flows: flows(state.beats, now), since: state.since };
}
