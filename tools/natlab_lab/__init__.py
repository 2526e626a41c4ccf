"""The lab of `tools/natlab`: a small internet in network namespaces, real nodes in it, and what is played there.

net         namespaces, routers that do NAT, what can happen to them
inside      sockets of this process in a namespace
delay       a public wire in user space that delays and loses packets
machine     node, relay, STUN server and model server as processes in hosts of the lab
watched     what runs `atmo node`: the command itself, with a watcher that tells times
matrix      pairs of NAT kinds
scenarios   what happens to a network in the middle of work
leftovers   removes what a killed run left behind
"""
