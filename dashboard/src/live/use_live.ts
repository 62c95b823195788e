// A query whose answer is read again when something it shows has changed.
//
// It says how old the answer is: after a cut, `stale` holds until it was read again over the new connection.
import type { TadaDocumentNode } from 'gql.tada';
import { useCallback, useEffect, useMemo, useRef, useState } from 'react';
import * as connection from './connection';
import { type FeedEvent, heardTo } from './feed';
import { asProblem, type Problem } from './problem';
import { keepReading } from './reading';
import { described, request } from './request';
import { onSession } from './session';

const PACE_MS = 500;
/** Answers kept, so that going back shows the last one at once, marked as stale. */
const KEPT = 40;

type Kept = { data: unknown; at: number };
const kept = new Map<string, Kept>();
onSession(() => kept.clear());

function keep(key: string, data: unknown): void {
  kept.delete(key);
  kept.set(key, { data, at: Date.now() });
  for (const oldest of kept.keys()) {
    if (kept.size <= KEPT) break;
    kept.delete(oldest);
  }
}

export type Live<Data> = {
  data: Data | undefined;
  problem: Problem | undefined;
  /** When the answer was read; 0 if never. */
  at: number;
  /** It may not be how things are now. */
  stale: boolean;
  loading: boolean;
  refresh: () => void;
};

export type LiveOptions = {
  /** Whether this event may have changed the answer; any event, unless given. */
  touches?: (event: FeedEvent) => boolean;
  /** Also read again after this long, for what no event tells. */
  everyMs?: number;
  paceMs?: number;
  /** Nothing is read while it is. */
  skip?: boolean;
};

export const never = () => false;

export function useLive<Data, Variables>(
  document: TadaDocumentNode<Data, Variables, unknown>,
  variables: Variables,
  { touches, everyMs, paceMs = PACE_MS, skip = false }: LiveOptions = {},
): Live<Data> {
  const { text, variables: names } = described(document);
  const key = skip ? '' : `${text}${JSON.stringify(variables)}`;
  const [state, setState] = useState<{
    key: string;
    data?: Data;
    problem?: Problem;
    at: number;
    epoch: number;
    loading: boolean;
  }>(() => ({ key: '', at: 0, epoch: -1, loading: true }));
  const latest = useRef({ variables, touches });
  latest.current = { variables, touches };
  const again = useRef<() => void>(() => {});

  useEffect(() => {
    if (key === '') return;
    let dirty = true;
    const old = kept.get(key) as { data: Data; at: number } | undefined;
    setState({ key, data: old?.data, at: old?.at ?? 0, epoch: -1, loading: true });

    const read = async (signal: AbortSignal) => {
      dirty = false;
      const { epoch } = connection.now();
      const asked = names.has('atLeast')
        ? { ...latest.current.variables, atLeast: heardTo() }
        : latest.current.variables;
      setState((before) => (before.loading ? before : { ...before, loading: true }));
      try {
        const data = await request(document, asked as Variables, signal);
        if (signal.aborted) return undefined;
        keep(key, data);
        setState({ key, data, at: Date.now(), epoch, loading: false });
        return undefined;
      } catch (error) {
        const problem = asProblem(error);
        if (signal.aborted) return problem;
        dirty ||= problem.retryable;
        setState((before) => ({ ...before, key, problem, loading: false }));
        return problem;
      }
    };
    const reading = keepReading({
      read,
      due: () => dirty,
      spoil: () => {
        dirty = true;
      },
      touches: (event) => latest.current.touches?.(event) ?? true,
      pace: (tookMs) => Math.max(paceMs, tookMs * 4),
      everyMs,
    });
    again.current = reading.refresh;
    return reading.end;
  }, [key, document, names, everyMs, paceMs]);

  const { state: standing, epoch } = connection.useConnection();
  const refresh = useCallback(() => again.current(), []);
  const mine = state.key === key;
  const fallback = mine ? undefined : (kept.get(key) as { data: Data; at: number } | undefined);
  return useMemo(
    () => ({
      data: mine ? state.data : fallback?.data,
      problem: mine ? state.problem : undefined,
      at: mine ? state.at : (fallback?.at ?? 0),
      stale: !mine || standing !== 'live' || state.epoch !== epoch || state.problem !== undefined,
      loading: !mine || state.loading,
      refresh,
    }),
    [mine, state, fallback, standing, epoch, refresh],
  );
}
