"""The Protocol of asyncio_echo.py on uvloop (libuv behind asyncio's interface). usage: uvloop_echo.py PORT"""

import sys

import uvloop
from benchmarks.daemon.asyncio_echo import allow_descriptors, serve

if __name__ == "__main__":
    allow_descriptors()
    uvloop.run(serve(int(sys.argv[1])))
