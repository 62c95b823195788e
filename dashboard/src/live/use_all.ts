// A list of which all entries are needed at once, such as agents sorted by who needs attention; page by page, bounded.
import type { TadaDocumentNode } from 'gql.tada';
import { useCallback, useEffect, useRef, useState } from 'react';
import * as connection from './connection';
import { type FeedEvent, heardTo } from './feed';
import { asProblem, type Problem } from './problem';
import { keepReading } from './reading';
import { request } from './request';

const PAGE = 200;
const ROWS_MAX = 5_000;
const PACE_MS = 1_000;

type Connected<Row> = { nodes: readonly Row[]; pageInfo: { endCursor: string | null; hasNextPage: boolean } };
type PageVariables = { first?: number | null; after?: string | null; atLeast?: string | null };

export type All<Row> = {
  rows: Row[];
  /** There are more than `ROWS_MAX`, and they are not here. */
  cut: boolean;
  problem: Problem | undefined;
  loading: boolean;
  stale: boolean;
  at: number;
  refresh: () => void;
};

export function useAll<Data, Variables extends PageVariables, Row>(
  document: TadaDocumentNode<Data, Variables, unknown>,
  variables: Variables,
  pick: (data: Data) => Connected<Row>,
  touches: (event: FeedEvent) => boolean,
  { everyMs, page = PAGE }: { everyMs?: number; page?: number } = {},
): All<Row> {
  const key = JSON.stringify(variables);
  const [state, setState] = useState<{
    key: string;
    rows: Row[];
    cut: boolean;
    problem?: Problem;
    epoch: number;
    at: number;
  }>({ key: '', rows: [], cut: false, epoch: -1, at: 0 });
  const latest = useRef({ variables, pick, touches });
  latest.current = { variables, pick, touches };
  const again = useRef<() => void>(() => {});

  useEffect(() => {
    let dirty = true;
    const read = async (signal: AbortSignal) => {
      dirty = false;
      const { epoch } = connection.now();
      const atLeast = heardTo();
      const rows: Row[] = [];
      let after: string | null = null;
      let more = true;
      try {
        while (more && rows.length < ROWS_MAX) {
          const asked = { ...latest.current.variables, first: page, after, atLeast } as Variables;
          const found = latest.current.pick(await request(document, asked, signal));
          if (signal.aborted) return undefined;
          rows.push(...found.nodes);
          after = found.pageInfo.endCursor;
          more = found.pageInfo.hasNextPage;
        }
        setState({ key, rows, cut: more, epoch, at: Date.now() });
        return undefined;
      } catch (error) {
        const problem = asProblem(error);
        if (signal.aborted) return problem;
        dirty ||= problem.retryable;
        setState((before) => ({
          ...(before.key === key ? before : { rows: [], cut: false, epoch: -1, at: 0 }),
          key,
          problem,
        }));
        return problem;
      }
    };
    const reading = keepReading({
      read,
      due: () => dirty,
      spoil: () => {
        dirty = true;
      },
      touches: (event) => latest.current.touches(event),
      pace: (tookMs) => Math.max(PACE_MS, tookMs * 4),
      everyMs,
    });
    again.current = reading.refresh;
    return reading.end;
  }, [key, document, everyMs, page]);

  const { state: standing, epoch } = connection.useConnection();
  const refresh = useCallback(() => again.current(), []);
  const mine = state.key === key;
  return {
    rows: mine ? state.rows : [],
    cut: mine && state.cut,
    problem: mine ? state.problem : undefined,
    loading: !mine,
    stale: !mine || standing !== 'live' || state.epoch !== epoch || state.problem !== undefined,
    at: mine ? state.at : 0,
    refresh,
  };
}
