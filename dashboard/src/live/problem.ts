// What went wrong, as the API says it: a code, words, and whether it may have happened all the same.

export type Code =
  | 'INVALID'
  | 'NOT_FOUND'
  | 'CONFLICT'
  | 'REFUSED'
  | 'BUSY'
  | 'LIMIT'
  | 'UNAUTHENTICATED'
  | 'FORBIDDEN'
  | 'UNAVAILABLE'
  | 'UNKNOWN_OUTCOME'
  | 'INTERNAL';

export class Problem extends Error {
  readonly code: Code;
  readonly field: string | undefined;
  readonly retryable: boolean;
  readonly trace: string | undefined;

  constructor(code: Code, message: string, more: { field?: string; retryable?: boolean; trace?: string } = {}) {
    super(message);
    this.name = 'Problem';
    this.code = code;
    this.field = more.field;
    this.retryable = more.retryable ?? false;
    this.trace = more.trace;
  }

  /** No answer came: a change may have been made. The same operation id makes asking again safe. */
  static silent(changes: boolean): Problem {
    return changes
      ? new Problem('UNKNOWN_OUTCOME', 'The node did not answer. It may have been done; asking again is safe.', {
          retryable: true,
        })
      : new Problem('UNAVAILABLE', 'The node does not answer.', { retryable: true });
  }

  /** The first error of an answer. */
  static of(errors: unknown, trace?: string): Problem {
    const first = Array.isArray(errors) ? (errors[0] as Record<string, unknown> | undefined) : undefined;
    const extensions = (first?.extensions ?? {}) as Record<string, unknown>;
    const message =
      typeof first?.message === 'string' ? first.message : 'The node answered with an error that has no words.';
    return new Problem((extensions.code as Code | undefined) ?? 'INTERNAL', message, {
      field: typeof extensions.field === 'string' ? extensions.field : undefined,
      retryable: extensions.retryable === true,
      trace,
    });
  }
}

export function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  return new Problem('INTERNAL', error instanceof Error ? error.message : String(error));
}
