// A subscription that goes on from its own position whenever the connection is back.
import type { TadaDocumentNode } from 'gql.tada';
import * as connection from './connection';
import { asProblem, Problem } from './problem';
import { described } from './request';

export type Following<Data> = {
  take: (data: Data) => void;
  /** The subscription itself was refused; it is not tried again. */
  refused?: (problem: Problem) => void;
  /** It has said all it had to say. */
  ended?: () => void;
};

/** A subscription that the server ends with a retryable error is begun again after this. */
const AGAIN_MS = 1_000;

/**
 * `variables` is called at each (re)start and gives the position to go on from. Returns what ends it.
 */
export function follow<Data, Variables>(
  document: TadaDocumentNode<Data, Variables, unknown>,
  variables: () => Variables,
  { take, refused, ended }: Following<Data>,
): () => void {
  let over = false;
  let stop: (() => void) | undefined;
  let begunIn = -1;
  let again: ReturnType<typeof setTimeout> | undefined;

  const finish = () => {
    over = true;
    clearTimeout(again);
    unlisten();
    stop?.();
    stop = undefined;
  };
  const start = () => {
    const client = connection.standing();
    const { epoch } = connection.now();
    if (over || !client || begunIn === epoch) return;
    begunIn = epoch;
    stop = client.subscribe<Data>(
      { query: described(document).text, variables: variables() as Record<string, unknown> },
      {
        next: ({ data, errors }) => {
          if (over || begunIn !== epoch) return;
          if (data) take(data);
          else if (errors) problem(Problem.of(errors), epoch);
        },
        error: (error) => {
          // A closed socket ends every subscription with its close event; the connection begins them again.
          if (over || begunIn !== epoch || !Array.isArray(error)) return;
          problem(Problem.of(error), epoch);
        },
        complete: () => {
          if (over || begunIn !== epoch || connection.now().epoch !== epoch || !connection.standing()) return;
          finish();
          ended?.();
        },
      },
    );
  };
  const problem = (found: Problem, epoch: number) => {
    if (found.retryable || found.code === 'BUSY') {
      again = setTimeout(() => {
        if (begunIn === epoch) begunIn = -1;
        start();
      }, AGAIN_MS);
      return;
    }
    finish();
    refused?.(asProblem(found));
  };
  const unlisten = connection.onConnection(start);
  start();
  return finish;
}
