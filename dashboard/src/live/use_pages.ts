// A long list, read in pages as they come into view; only pages in view are read again when something changes.
//
// Rows stay known while their page is not in view; a page that may have changed is read again before it is shown as live.
// At most `PAGES_MAX` pages are kept.
import type { TadaDocumentNode } from 'gql.tada';
import { useCallback, useEffect, useRef, useState } from 'react';
import * as connection from './connection';
import { type FeedEvent, heardTo } from './feed';
import { asProblem, type Problem } from './problem';
import { keepReading } from './reading';
import { request } from './request';

export const PAGE = 100;
const PAGES_MAX = 200;
const PACE_MS = 700;

type Connected<Row> = { nodes: readonly Row[]; pageInfo: { endCursor: string | null; hasNextPage: boolean } };
type PageVariables = { first?: number | null; after?: string | null; atLeast?: string | null };
type Page<Row> = { rows: readonly Row[]; end: string | null; more: boolean; fresh: boolean; epoch: number };

export type Pages<Row> = {
  rows: Row[];
  hasMore: boolean;
  problem: Problem | undefined;
  /** Nothing was read yet. */
  loading: boolean;
  stale: boolean;
  /** Tells which rows are in view. */
  look: (first: number, last: number) => void;
  refresh: () => void;
};

export function usePages<Data, Variables extends PageVariables, Row extends { id: string }>(
  document: TadaDocumentNode<Data, Variables, unknown>,
  variables: Variables,
  pick: (data: Data) => Connected<Row>,
  touches: (event: FeedEvent) => boolean,
): Pages<Row> {
  const key = JSON.stringify(variables);
  const [shown, setShown] = useState<{ key: string; pages: Page<Row>[]; problem?: Problem }>({ key, pages: [] });
  const latest = useRef({ variables, pick, touches });
  latest.current = { variables, pick, touches };
  const view = useRef<[number, number]>([0, 0]);
  const wake = useRef<() => void>(() => {});
  const again = useRef<() => void>(() => {});

  useEffect(() => {
    let pages: Page<Row>[] = [];
    view.current = [0, 0];
    setShown({ key, pages });

    /** The first page in view that has to be read, if any. */
    const wanted = (): number | undefined => {
      const [from, to] = view.current;
      let at = 0;
      for (let index = 0; index < pages.length; index += 1) {
        const page = pages[index];
        if (!page) break;
        const end = at + page.rows.length;
        if (!page.fresh && (end > from || index === pages.length - 1) && at <= to) return index;
        at = end;
      }
      const last = pages.at(-1);
      if (!last) return 0;
      // The next page is read a little before its place comes into view.
      return last.more && to + 30 >= at && pages.length < PAGES_MAX ? pages.length : undefined;
    };
    const read = async (signal: AbortSignal) => {
      const index = wanted();
      if (index === undefined) return undefined;
      const { epoch } = connection.now();
      const before = pages[index - 1];
      const asked = { ...latest.current.variables, first: PAGE, after: before?.end ?? null, atLeast: heardTo() };
      // Changes that come while it is read make it stale again.
      const old = pages[index];
      if (old) pages = pages.with(index, { ...old, fresh: true });
      let problem: Problem | undefined;
      try {
        const found = latest.current.pick(await request(document, asked as Variables, signal));
        if (signal.aborted) return undefined;
        const stillFresh = !old || pages[index]?.fresh === true;
        const page: Page<Row> = {
          rows: found.nodes,
          end: found.pageInfo.endCursor,
          more: found.pageInfo.hasNextPage,
          fresh: stillFresh,
          epoch,
        };
        // A page that ends elsewhere moves all that follow.
        const moved = old !== undefined && old.end !== page.end;
        const rest = page.more ? pages.slice(index + 1).map((next) => (moved ? { ...next, fresh: false } : next)) : [];
        pages = [...pages.slice(0, index), page, ...rest];
      } catch (error) {
        problem = asProblem(error);
        if (signal.aborted) return problem;
        if (old) pages = pages.with(index, { ...old, fresh: false });
      }
      setShown({ key, pages, problem });
      return problem;
    };
    const reading = keepReading({
      read,
      due: () => wanted() !== undefined,
      spoil: () => {
        pages = pages.map((page) => (page.fresh ? { ...page, fresh: false } : page));
      },
      touches: (event) => latest.current.touches(event),
      // What was never read is not kept waiting.
      pace: (tookMs) => (pages[wanted() ?? 0] ? Math.max(PACE_MS, tookMs * 4) : 0),
    });
    wake.current = reading.wake;
    again.current = reading.refresh;
    return reading.end;
  }, [key, document]);

  const { state: standing, epoch } = connection.useConnection();
  const look = useCallback((first: number, last: number) => {
    if (view.current[0] === first && view.current[1] === last) return;
    view.current = [first, last];
    wake.current();
  }, []);
  const refresh = useCallback(() => again.current(), []);
  const pages = shown.key === key ? shown.pages : [];
  return {
    rows: once(pages),
    hasMore: pages.at(-1)?.more ?? false,
    problem: shown.problem,
    loading: pages.length === 0 && !shown.problem,
    stale:
      standing !== 'live' || shown.problem !== undefined || pages.some((page) => page.epoch !== epoch && page.fresh),
    look,
    refresh,
  };
}

/** While pages move, a row may be on two of them. */
function once<Row extends { id: string }>(pages: Page<Row>[]): Row[] {
  const seen = new Set<string>();
  const rows: Row[] = [];
  for (const page of pages) {
    for (const row of page.rows) {
      if (seen.has(row.id)) continue;
      seen.add(row.id);
      rows.push(row);
    }
  }
  return rows;
}
