// A list of which all entries are needed at once, such as agents sorted by who needs attention; page by page, bounded.
import type { TadaDocumentNode } from 'gql.tada';
import { useCallback, useEffect, useRef, useState } from 'react';
import * as connection from './connection';
import { type FeedEvent, heardTo, onEvents } from './feed';
import { asProblem, type Problem } from './problem';
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
): All<Row> {
  const key = JSON.stringify(variables);
  const [state, setState] = useState<{
    key: string;
    rows: Row[];
    cut: boolean;
    problem?: Problem;
    epoch: number;
    at: number;
  }>({
    key: '',
    rows: [],
    cut: false,
    epoch: -1,
    at: 0,
  });
  const latest = useRef({ variables, pick, touches });
  latest.current = { variables, pick, touches };
  const again = useRef<() => void>(() => {});

  useEffect(() => {
    let over = false;
    let running = false;
    let dirty = true;
    let startedAt = 0;
    let tookMs = 0;
    let problems = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const abort = new AbortController();

    const read = async () => {
      timer = undefined;
      if (over || running || globalThis.document.hidden) return;
      running = true;
      dirty = false;
      startedAt = Date.now();
      const began = startedAt;
      const { epoch } = connection.now();
      const atLeast = heardTo();
      const rows: Row[] = [];
      let after: string | null = null;
      let more = true;
      try {
        while (more && rows.length < ROWS_MAX) {
          const asked = { ...latest.current.variables, first: PAGE, after, atLeast } as Variables;
          const found = latest.current.pick(await request(document, asked, abort.signal));
          if (over) return;
          rows.push(...found.nodes);
          after = found.pageInfo.endCursor;
          more = found.pageInfo.hasNextPage;
        }
        problems = 0;
        setState({ key, rows, cut: more, epoch, at: Date.now() });
      } catch (error) {
        if (over) return;
        const problem = asProblem(error);
        problems += 1;
        dirty ||= problem.retryable;
        setState((before) => ({
          ...(before.key === key ? before : { rows: [], cut: false, epoch: -1, at: 0 }),
          key,
          problem,
        }));
      } finally {
        running = false;
        tookMs = Date.now() - began;
      }
      plan();
    };
    const plan = () => {
      if (over || running || !dirty || timer !== undefined) return;
      const pace = Math.max(PACE_MS, tookMs * 4, problems > 0 ? Math.min(1_000 * 2 ** problems, 15_000) : 0);
      timer = setTimeout(read, Math.max(0, startedAt + pace - Date.now()));
    };
    const soon = () => {
      dirty = true;
      plan();
    };
    again.current = () => {
      startedAt = 0;
      problems = 0;
      clearTimeout(timer);
      timer = undefined;
      soon();
    };
    const offEvents = onEvents((events) => {
      if (events.some(latest.current.touches)) soon();
    });
    let epoch = connection.now().epoch;
    const offConnection = connection.onConnection(() => {
      if (connection.now().state !== 'live' || connection.now().epoch === epoch) return;
      epoch = connection.now().epoch;
      again.current();
    });
    globalThis.document.addEventListener('visibilitychange', soon);
    plan();
    return () => {
      over = true;
      abort.abort();
      clearTimeout(timer);
      offEvents();
      offConnection();
      globalThis.document.removeEventListener('visibilitychange', soon);
    };
  }, [key, document]);

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
