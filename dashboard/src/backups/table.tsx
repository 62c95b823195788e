// Backups in their chains: how large each is, why one is full, whether it is what was written, and what can be made of it.
import { Group } from '@mantine/core';
import { Fragment, type ReactNode, useMemo } from 'react';
import { bytes, many } from '../ui/figures';
import { State } from '../ui/state';
import { Ago, At } from '../ui/time';
import { chains, type Linked, nameOf } from './chain';
import { Drill, Restore } from './restore';
import { useVerify, Verified, VerifyButton } from './verify';

export type BackupRow = Linked & {
  kind: 'FULL' | 'INCREMENTAL' | null;
  bytes: number | null;
  fullBecause: string | null;
  /** What is wrong with it, as far as that is known without reading it. */
  damage?: string | null;
  drill?: { at: string; passed: boolean; failure: string | null } | null;
  vmName: string | null;
  /** Who made it, or of what. */
  of: ReactNode;
};

export function BackupTable({
  rows,
  ofWhat,
  hosts,
  refresh,
}: {
  rows: readonly BackupRow[];
  /** Head of the column that has `of`. */
  ofWhat: string;
  hosts: ReadonlyMap<string, string>;
  refresh: () => void;
}) {
  const grouped = useMemo(() => chains(rows), [rows]);
  return (
    <section className="scroll-x" tabIndex={0} aria-label="Backups">
      <table className="plain">
        <thead>
          <tr>
            <th>Taken</th>
            <th>Kind</th>
            <th>Size</th>
            <th>{ofWhat}</th>
            <th>Name</th>
            <th>Is it whole?</th>
            <th aria-label="Actions" />
          </tr>
        </thead>
        <tbody>
          {grouped.map((chain) => (
            <Fragment key={chain.first}>
              {(chain.rows.length > 1 || chain.missing) && (
                <tr>
                  <td colSpan={7} className="dim chain">
                    A chain of {many(chain.rows.length, 'backup')},{' '}
                    {bytes(chain.rows.reduce((all, row) => all + (row.bytes ?? 0), 0))} together
                    {chain.missing !== undefined &&
                      `; ${nameOf(chain.missing)}, which it is based on, is not listed here`}
                  </td>
                </tr>
              )}
              {chain.rows.map((row, at) => (
                <Row key={row.path} row={row} deep={at > 0} hosts={hosts} refresh={refresh} />
              ))}
            </Fragment>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Row({
  row,
  deep,
  hosts,
  refresh,
}: {
  row: BackupRow;
  deep: boolean;
  hosts: ReadonlyMap<string, string>;
  refresh: () => void;
}) {
  const verify = useVerify(row.path);
  return (
    <tr>
      <td style={{ whiteSpace: 'nowrap' }}>
        {deep && (
          <span className="dim" aria-hidden>
            └{' '}
          </span>
        )}
        <At at={row.takenAt} withDate />
      </td>
      <td style={{ minWidth: '9rem', maxWidth: '18rem' }}>
        {row.kind === null ? <span className="dim">not known</span> : row.kind === 'FULL' ? 'full' : 'incremental'}
        {row.fullBecause && <div className="dim">{row.fullBecause}</div>}
      </td>
      <td className="num" style={{ whiteSpace: 'nowrap' }}>
        {row.bytes === null ? <span className="dim">–</span> : bytes(row.bytes)}
      </td>
      <td style={{ whiteSpace: 'nowrap' }}>{row.of}</td>
      <td className="mono" style={{ whiteSpace: 'nowrap' }} title={row.path}>
        {nameOf(row.path)}
      </td>
      <td style={{ minWidth: '9rem', maxWidth: '18rem' }}>
        {row.damage ? (
          <>
            <State status="DAMAGED" as="bad" /> <span style={{ color: 'var(--bad)' }}>{row.damage}</span>
          </>
        ) : (
          !verify.reading && !verify.found && <span className="dim">not read here yet</span>
        )}
        <Verified {...verify} />
        {row.drill && (
          <div>
            <State status={row.drill.passed ? 'CAME_UP' : 'DID_NOT_COME_UP'} as={row.drill.passed ? 'good' : 'bad'} />{' '}
            <span className="dim">
              in a drill <Ago at={row.drill.at} />
              {row.drill.failure && `: ${row.drill.failure}`}
            </span>
          </div>
        )}
      </td>
      <td>
        <Group gap={6} wrap="nowrap">
          <VerifyButton {...verify} />
          {row.vmName !== null && (
            <>
              <Restore from={row.path} vmName={row.vmName} hosts={hosts} />
              <Drill from={row.path} done={refresh} />
            </>
          )}
        </Group>
      </td>
    </tr>
  );
}
