// Three real nodes: what the page shows of them, and what becomes of it when they die.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { accessible, launch, live, open, picture, sound } from './support/browser.mjs';
import { Node, until } from './support/node.mjs';

describe('three nodes', () => {
  const nodes = [];
  let browser;
  before(async () => {
    browser = await launch();
    nodes.push(await Node.start({ cluster: true }));
    for (let number = 2; number <= 3; number += 1) {
      const token = (await nodes[0].cli('token', 'create', '--quiet')).split('\n').at(-1);
      nodes.push(
        await Node.start({ cluster: true, args: ['--join', `127.0.0.1:${nodes[0].linkPort}`, '--token', token] }),
      );
    }
    await until('three vote', async () => (await nodes[0].ask('{cluster{voters{id}}}')).cluster.voters.length === 3);
    await nodes[0].ask('mutation($i:ScaleSwarmInput!){scaleSwarm(input:$i){cursor}}', {
      i: { swarm: 'default', agents: 12, template: { name: 'spread', connector: { noop: true } } },
    });
  });
  after(async () => {
    await browser?.close();
    for (const node of nodes) await node.stop();
  });

  const ids = async (node) => (await node.ask('{cluster{leader{id} nodes{id address}}}')).cluster;
  const of = (cluster, node) => cluster.nodes.find(({ address }) => address.endsWith(`:${node.linkPort}`)).id;

  test('leader, leases, links and certificates are shown, and each node has its tree', async () => {
    const cluster = await ids(nodes[0]);
    const page = await open(browser, nodes[1], { path: '/ui/cluster', token: nodes[0].token });
    await live(page);
    for (const { id } of cluster.nodes) {
      const card = page.getByRole('region', { name: `Node ${id}` });
      await card.getByText('good until').waitFor();
      await card.getByText(/ left$/).waitFor();
      assert.equal(await card.getByText('leader', { exact: true }).count(), id === cluster.leader.id ? 1 : 0);
    }
    await page.getByRole('heading', { name: 'Links' }).waitFor();
    await page.getByRole('cell', { name: 'raft' }).first().waitFor();
    await picture(page, 'cluster-three-light');
    await accessible(page, 'cluster of three');
    const far = of(cluster, nodes[2]);
    await page
      .getByRole('region', { name: `Node ${far}` })
      .getByRole('link', { name: 'tree' })
      .click();
    await page
      .getByRole('treeitem', { name: /agents/ })
      .first()
      .waitFor();
    await until('it is the far node’s tree', async () => page.url().includes(far));
    await sound(page, 'cluster');
    await page.context().close();
  });

  test('one is killed: a page of another shows it lost and stays live; its own page says so, and recovers when it is back', async () => {
    const cluster = await ids(nodes[0]);
    const victim = nodes.findIndex((node) => of(cluster, node) === cluster.leader.id);
    const other = nodes[(victim + 1) % 3];
    const [mine, theirs] = await Promise.all([
      open(browser, nodes[victim], { path: '/ui/cluster' }),
      open(browser, other, { path: '/ui/cluster' }),
    ]);
    await Promise.all([live(mine), live(theirs)]);
    await nodes[victim].kill();
    await mine.getByText('Not live since').waitFor();
    const lost = theirs.getByRole('region', { name: `Node ${cluster.leader.id}` });
    await lost.getByText('lost', { exact: true }).waitFor({ timeout: 60_000 });
    await until('another leads', async () => {
      const { leader } = await ids(other);
      return leader && leader.id !== cluster.leader.id;
    });
    await live(theirs);
    await theirs.getByRole('link', { name: 'Overview', exact: true }).click();
    await theirs.getByText('1 node lost or silent').waitFor();
    await picture(theirs, 'overview-lost-light');
    // Written while it was away.
    await other.ask('mutation($i:CreateSwarmInput!){createSwarm(input:$i){cursor}}', { i: { name: 'meanwhile' } });
    await mine.getByRole('link', { name: 'Swarms', exact: true }).click();
    await nodes[victim].begin();
    await live(mine);
    await mine.getByRole('link', { name: 'meanwhile' }).waitFor();
    await theirs.getByText('1 node lost or silent').waitFor({ state: 'detached', timeout: 60_000 });
    await sound(mine, 'the page of the one that was killed');
    await sound(theirs, 'the page of another');
    await Promise.all([mine.context().close(), theirs.context().close()]);
  });

  test('a node is drained from its card, and taken back', async () => {
    const cluster = await ids(nodes[0]);
    const page = await open(browser, nodes[0], { path: '/ui/cluster' });
    const id = of(cluster, nodes[2]);
    const card = page.getByRole('region', { name: `Node ${id}` });
    await card.getByRole('button', { name: 'Drain' }).click();
    await page.getByRole('dialog').getByText('finishes or moves to other nodes').waitFor();
    await page.getByRole('dialog').getByRole('button', { name: 'Drain' }).click();
    await card.getByText('drained', { exact: true }).waitFor({ timeout: 60_000 });
    await card.getByRole('button', { name: 'Take entities again' }).click();
    await card.getByText('up', { exact: true }).waitFor();
    await sound(page, 'cluster');
    await page.context().close();
  });
});
