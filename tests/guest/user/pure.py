# SPDX-License-Identifier: Apache-2.0
"""Pure Python: calls, attributes, integers, floats, lists, dicts, strings,
sorting, generators, exceptions. Prints what it computed."""


class Body:
    def __init__(self, x, y, z, vx, vy, vz, m):
        self.x, self.y, self.z = x, y, z
        self.vx, self.vy, self.vz = vx, vy, vz
        self.m = m

    def move(self, dt):
        self.x += dt * self.vx
        self.y += dt * self.vy
        self.z += dt * self.vz


def bodies(steps):
    all_ = [Body(i * 1.5, i * 0.5 - 1, 1.0 / (i + 1), 0.1 * i, -0.05, 0.01, 1 + i)
            for i in range(5)]
    for _ in range(steps):
        for i, a in enumerate(all_):
            for b in all_[i + 1:]:
                dx, dy, dz = a.x - b.x, a.y - b.y, a.z - b.z
                d = (dx * dx + dy * dy + dz * dz + 0.01) ** -1.5 * 0.001
                a.vx -= dx * b.m * d
                a.vy -= dy * b.m * d
                a.vz -= dz * b.m * d
                b.vx += dx * a.m * d
                b.vy += dy * a.m * d
                b.vz += dz * a.m * d
        for a in all_:
            a.move(0.001)
    return "%.12f" % sum(a.x * a.m for a in all_)


def queens(n, row=0, cols=0, left=0, right=0):
    if row == n:
        return 1
    count = 0
    free = ~(cols | left | right) & ((1 << n) - 1)
    while free:
        bit = free & -free
        free ^= bit
        count += queens(n, row + 1, cols | bit, (left | bit) << 1,
                        (right | bit) >> 1)
    return count


def words(n):
    seed, count = 1, {}
    for _ in range(n):
        seed = seed * 16807 % 2147483647
        w = "w%x" % (seed % 5003)
        count[w] = count.get(w, 0) + 1
    top = sorted(count.items(), key=lambda kv: (-kv[1], kv[0]))
    return " ".join("%s:%d" % kv for kv in top[:5])


def sieve(n):
    flags = bytearray([1]) * (n + 1)
    for i in range(2, int(n ** 0.5) + 1):
        if flags[i]:
            flags[i * i::i] = bytes(len(range(i * i, n + 1, i)))
    return sum(i for i in range(2, n + 1) if flags[i])


def collatz():
    seen = {1: 0}

    def steps(n):
        path = []
        while True:
            try:
                base = seen[n]
                break
            except KeyError:
                path.append(n)
                n = n // 2 if n % 2 == 0 else 3 * n + 1
        for k, m in enumerate(reversed(path), 1):
            seen[m] = base + k
        return base + len(path)

    return max((steps(n), n) for n in range(1, 60000))


def main():
    print(bodies(12000))
    print(queens(9))
    print(words(400000))
    print(sieve(1500000))
    print(collatz())
    print(3 ** 20000 % 1000000007, sum(map(int, str(7 ** 4000))))


main()
