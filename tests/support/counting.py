"""A handler with state: counts the requests of each connection and says the number with each answer."""

COUNTING = """
class Counting:
    def connected(self, conn):
        conn.state = 0

    def request(self, conn, data):
        conn.state += 1
        return b"%d %s" % (conn.state, data)

    def export_state(self, conn):
        return b"%d" % conn.state

    def import_state(self, conn, blob):
        conn.state = int(blob)
"""
