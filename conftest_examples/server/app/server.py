"""The server under test: a shelf of books over HTTP. Prints the port it chose."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer

BOOKS = {"1": "Dune"}


class Shelf(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        book = BOOKS.get(self.path.removeprefix("/books/"))
        self.answer(200 if book else 404, book)

    def do_PUT(self) -> None:
        BOOKS[self.path.removeprefix("/books/")] = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer(201, None)

    def answer(self, status: int, book: str | None) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"book": book}).encode())


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 8000), Shelf)
    print("listening", flush=True)
    server.serve_forever()
