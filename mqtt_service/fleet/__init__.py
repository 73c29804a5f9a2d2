"""What an owner asks and tells the fleet from the command line: over the project's API, without a worker.

send  commands  devices  timeline  mapping  top    the verbs: each opens the project and prints
finding  sending  waiting                  devices and commands in the project
choosing  payload  times                   what people write. Pure
words  tables  send_view  device_page  top_view    how it is said. Pure
session  output                            the project, and the terminal or JSON
"""
