// Migrations that are under way anywhere: how far each is, and calling them off.
import { Text } from '@mantine/core';
import { Undo2 } from 'lucide-react';
import { graphql, type ResultOf } from '../live/graphql';
import { request } from '../live/request';
import { useAll } from '../live/use_all';
import { ConfirmButton, useAct } from '../ui/act';
import { bytes } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Panel, ProblemNote } from '../ui/shown';
import { duration, Took } from '../ui/time';
import { FLEET_PAGE, MEASURED_EVERY_MS, touchesFleet } from './query';

const MOVING = graphql(`
  query MovingVms($first: Int, $after: String, $atLeast: Cursor) {
    vms(first: $first, after: $after, atLeast: $atLeast, filter: { status: [MIGRATING] }) {
      nodes {
        id name host { id name } operation { number startedAt }
        migration { totalBytes remainingBytes forecastMs isOutrun }
      }
      pageInfo { endCursor hasNextPage }
    }
  }
`);
const CANCEL = graphql(
  `mutation CancelOneVmMigration($input: CancelVmMigrationInput!) { cancelVmMigration(input: $input) { cursor } }`,
);

export type Moving = ResultOf<typeof MOVING>['vms']['nodes'][number];

export function useMoving() {
  return useAll(MOVING, {}, (data) => data.vms, touchesFleet, { everyMs: MEASURED_EVERY_MS, page: FLEET_PAGE });
}

export function Moves({ moving }: { moving: ReturnType<typeof useMoving> }) {
  const cancel = useAct(CANCEL, moving.refresh);
  const { rows } = moving;
  if (rows.length === 0 && !moving.problem) return null;
  return (
    <Panel title={`Moves under way (${rows.length})`} live={moving}>
      {moving.problem && <ProblemNote problem={moving.problem} retry={moving.refresh} at={moving.at} />}
      <section className="scroll-x" tabIndex={0} aria-label="Moves under way">
        <table className="plain">
          <thead>
            <tr>
              <th>VM</th>
              <th>From</th>
              <th>For</th>
              <th style={{ width: '35%' }}>Copied</th>
              <th>Still takes</th>
              <th aria-label="Actions" />
            </tr>
          </thead>
          <tbody>
            {rows.map((vm) => (
              <tr key={vm.id}>
                <td>
                  <KeyLink id={vm.id} name={vm.name} />
                </td>
                <td style={{ whiteSpace: 'nowrap' }}>{vm.host && <KeyLink id={vm.host.id} name={vm.host.name} />}</td>
                <td style={{ whiteSpace: 'nowrap' }}>
                  <Took from={vm.operation?.startedAt} to={null} />
                </td>
                <td>
                  <Copied vm={vm} />
                </td>
                <td>
                  {vm.migration?.isOutrun ? (
                    <span style={{ color: 'var(--warn)' }}>its guest writes faster than it is copied</span>
                  ) : vm.migration?.forecastMs != null ? (
                    <span className="num">about {duration(vm.migration.forecastMs)}</span>
                  ) : (
                    <span className="dim">not known</span>
                  )}
                </td>
                <td>
                  <ConfirmButton
                    act={cancel}
                    input={{ vm: vm.id }}
                    done={`${vm.name} stays where it is.`}
                    title={`Call the migration of ${vm.name} off?`}
                    consequence="What was copied is dropped, and the VM runs on where it is. Once it runs on the other host it is too late, and this is refused."
                    confirm="Call it off"
                    size="compact-xs"
                    leftSection={<Undo2 size={13} />}
                  >
                    Call it off
                  </ConfirmButton>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      <Text size="sm" c="dimmed" mt="xs">
        A host sends only a few at a time; the others wait for their turn.
      </Text>
    </Panel>
  );
}

function Copied({ vm: { name, migration } }: { vm: Moving }) {
  const { totalBytes: total, remainingBytes: left } = migration ?? { totalBytes: null, remainingBytes: null };
  if (total === null || left === null || total <= 0) return <span className="dim">not begun, or not told</span>;
  return (
    <>
      <progress
        max={total}
        value={Math.max(0, total - left)}
        style={{ width: '100%' }}
        aria-label={`Copied of ${name}`}
      />
      <div className="dim num">
        {bytes(Math.max(0, total - left))} of {bytes(total)}
      </div>
    </>
  );
}

/** Asks each to end; which would not is told together. */
export async function callOff(moving: readonly Moving[]): Promise<string[]> {
  const asked = moving.map(async (vm) => {
    // The id holds for this migration of it alone, so that asking twice asks once.
    const operationId = `dashboard-call-off-${vm.id}-${vm.operation?.number ?? 0}`;
    try {
      await request(CANCEL, { input: { vm: vm.id, operationId } });
      return [];
    } catch (error) {
      return [`${vm.name}: ${error instanceof Error ? error.message : String(error)}`];
    }
  });
  return (await Promise.all(asked)).flat();
}
