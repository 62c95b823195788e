// What of hosts and VMs is shown in lists, and which events change it.
import type { FeedEvent } from '../live/feed';
import { graphql, type ResultOf } from '../live/graphql';

export const HOSTS = graphql(`
  query Hosts($first: Int, $after: String, $atLeast: Cursor) {
    hosts(first: $first, after: $after, atLeast: $atLeast) {
      nodes {
        id name uri status why nodeId zone vmCount cpuOvercommit memoryOvercommit addedAt
        labels { key value }
        capacity { cpus memoryBytes version }
        reserved { cpus memoryBytes cpusMax memoryBytesMax }
      }
      pageInfo { endCursor hasNextPage }
    }
  }
`);

export const VMS = graphql(`
  query Vms($filter: VmFilter, $first: Int, $after: String, $atLeast: Cursor) {
    vms(filter: $filter, first: $first, after: $after, atLeast: $atLeast) {
      nodes {
        id name status failure image cpus memoryBytes ha startedAt warmFor
        lease { task attempt }
        host { id name }
        operation { kind status startedAt }
        usage { cpuTimeNs memoryBytes }
      }
      pageInfo { endCursor hasNextPage }
    }
  }
`);

export type HostRow = ResultOf<typeof HOSTS>['hosts']['nodes'][number];
export type VmRow = ResultOf<typeof VMS>['vms']['nodes'][number];

/** Rows of a page: what a query may cost is bounded. */
export const FLEET_PAGE = 100;

/** How often what hypervisors measure is read again: no event tells of it. */
export const MEASURED_EVERY_MS = 5_000;

export function touchesFleet(event: FeedEvent): boolean {
  return (
    event.stream.startsWith('vm_') ||
    event.kind.startsWith('Host') ||
    event.kind.startsWith('Vm') ||
    event.kind === 'Placed' ||
    event.kind === 'Unplaced' ||
    event.kind === 'NodeLost'
  );
}
