"""HTTP/1.1 on trio: connections and their limits, requests and answers, WebSockets. Knows no route."""
