// What of networks is shown, in words, and which events change it.
import { touchesFleet } from '../hosts/query';
import type { FeedEvent } from '../live/feed';
import { graphql, type ResultOf } from '../live/graphql';

export const NETWORKS = graphql(`
  query Networks($first: Int, $after: String, $atLeast: Cursor) {
    networks(first: $first, after: $after, atLeast: $atLeast) {
      nodes { id name kind cidr vni mtu bridge vmCount hostCount hosts addedAt }
      pageInfo { endCursor hasNextPage }
    }
  }
`);

/** Only what the page of a network shows of VMs, of which it reads all. */
export const NETWORK_VMS = graphql(`
  query NetworkVms($first: Int, $after: String, $atLeast: Cursor) {
    vms(first: $first, after: $after, atLeast: $atLeast) {
      nodes { id name status host { id name } networkAddresses { networkId address mac } }
      pageInfo { endCursor hasNextPage }
    }
  }
`);

export type NetworkRow = ResultOf<typeof NETWORKS>['networks']['nodes'][number];
export type NetworkKind = NetworkRow['kind'];

export const KINDS: { kind: NetworkKind; label: string; what: string }[] = [
  { kind: 'OVERLAY', label: 'overlay', what: 'one network over all hosts, apart from every other' },
  { kind: 'NAT', label: 'NAT', what: 'the VMs of each host among themselves, with a way out by the host’s address' },
  { kind: 'ISOLATED', label: 'isolated', what: 'the VMs of each host among themselves, with no way out' },
  { kind: 'BRIDGE', label: 'bridge', what: 'whoever is on a bridge that every host has' },
];

export function kindLabel(kind: NetworkKind): string {
  return KINDS.find((each) => each.kind === kind)?.label ?? kind.toLowerCase();
}

export function touchesNetworks(event: FeedEvent): boolean {
  return event.kind.startsWith('Network') || touchesFleet(event);
}
