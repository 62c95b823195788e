// Reading a backup and all that it is based on, and saying what of it is not what was written.
import { Button } from '@mantine/core';
import { ShieldCheck } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import { graphql, type ResultOf } from '../live/graphql';
import { asProblem, Problem } from '../live/problem';
import { request } from '../live/request';
import { bytes } from '../ui/figures';
import { State } from '../ui/state';
import { Ago } from '../ui/time';

const CHECK = graphql(`
  query VmBackupCheck($from: String!) { vmBackupCheck(from: $from) { done whole bytes damage } }
`);

/** One that is not read to its end is asked for again after this long; the node reads on meanwhile. */
const AGAIN_MS = 1_000;
/** An hour of that; then whoever wants to know asks anew, and the node goes on where it is. */
const AGAIN_MAX = 3_600;

type Check = ResultOf<typeof CHECK>['vmBackupCheck'];

export function useVerify(from: string) {
  const [reading, setReading] = useState(false);
  const [found, setFound] = useState<{ at: number; check: Check } | { at: number; problem: Problem }>();
  const abort = useRef<AbortController>(undefined);
  useEffect(() => () => abort.current?.abort(), []);
  const verify = async () => {
    const mine = new AbortController();
    abort.current = mine;
    const { signal } = mine;
    setReading(true);
    setFound(undefined);
    try {
      for (let asked = 0; ; asked += 1) {
        const { vmBackupCheck: check } = await request(CHECK, { from }, signal);
        if (signal.aborted) return;
        if (check.done) {
          setFound({ at: Date.now(), check });
          break;
        }
        if (asked >= AGAIN_MAX)
          throw new Problem(
            'BUSY',
            'It is not read to its end yet. Verify it again: what was read is not read twice.',
            {},
          );
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    } catch (error) {
      if (signal.aborted) return;
      setFound({ at: Date.now(), problem: asProblem(error) });
    }
    setReading(false);
  };
  return { verify, reading, found };
}

export function VerifyButton({ verify, reading }: { verify: () => Promise<void>; reading: boolean }) {
  return (
    <Button
      size="compact-xs"
      variant="default"
      leftSection={<ShieldCheck size={13} />}
      loading={reading}
      onClick={() => void verify()}
    >
      Verify
    </Button>
  );
}

/** What came of it; nothing before it was asked for. */
export function Verified({ reading, found }: Pick<ReturnType<typeof useVerify>, 'reading' | 'found'>) {
  return (
    <div role="status">
      {reading && <span className="dim">every file of it is being read</span>}
      {found && 'problem' in found && (
        <span style={{ color: 'var(--bad)' }}>It could not be read: {found.problem.message}</span>
      )}
      {found &&
        'check' in found &&
        (found.check.whole ? (
          <>
            <State status="WHOLE" as="good" />{' '}
            <span className="dim">
              {found.check.bytes !== null && `${bytes(found.check.bytes)} read, `}
              <Ago at={found.at} />
            </span>
          </>
        ) : (
          <>
            <State status="DAMAGED" as="bad" />
            <ul className="bare" style={{ color: 'var(--bad)' }}>
              {found.check.damage.map((what) => (
                <li key={what}>{what}</li>
              ))}
            </ul>
          </>
        ))}
    </div>
  );
}
