"""`client.py METHOD PATH [BODY]` prints status and answer."""

import sys
from http.client import HTTPConnection

method, path, *body = sys.argv[1:]
connection = HTTPConnection("127.0.0.1", 8000, timeout=5)
connection.request(method, path, body=body[0] if body else None)
response = connection.getresponse()
print(response.status, response.read().decode())
