import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

/** JDBC through the gateway: prints what it found as one JSON object. */
public class Flow {
    private static final List<String> FOUND = new ArrayList<>();

    private interface Work {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection connection = connect(new Properties())) {
            parameters(connection);
            prepared(connection);
            transaction(connection);
            batch(connection);
            cursor(connection);
            copy(connection);
            notification(connection);
            cancel(connection);
        }
        Properties wrong = new Properties();
        wrong.setProperty("password", "wrong");
        found("wrong", quoted(stateOf(() -> connect(wrong))));
        Properties forbidden = new Properties();
        forbidden.setProperty("user", "bob/app_rw#hidden");
        found("forbidden", quoted(stateOf(() -> connect(forbidden))));
        System.out.println("{" + String.join(", ", FOUND) + "}");
    }

    private static Connection connect(Properties over) throws SQLException {
        Properties settings = new Properties();
        settings.setProperty("user", System.getenv("WHO"));
        settings.setProperty("password", System.getenv("PASSWORD"));
        settings.setProperty("sslmode", "verify-full");
        settings.setProperty("sslrootcert", System.getenv("CA"));
        settings.setProperty("ApplicationName", "jdbc flow");
        settings.setProperty("prepareThreshold", "2"); // named statements from the second run on
        settings.putAll(over);
        String where = "jdbc:postgresql://localhost:%s/%s";
        return DriverManager.getConnection(
            String.format(where, System.getenv("PORT"), System.getenv("DATABASE")), settings);
    }

    private static void parameters(Connection connection) throws SQLException {
        try (PreparedStatement sum = connection.prepareStatement("SELECT ? + ?, ?::text, ?::bytea")) {
            byte[] bytes = {0, -1, 1, -2};
            sum.setInt(1, 40);
            sum.setLong(2, 2);
            sum.setString(3, "größer");
            sum.setBytes(4, bytes);
            ResultSet row = sum.executeQuery();
            row.next();
            found("sum", row.getInt(1));
            found("words", quoted(row.getString(2)));
            found("bytes", Arrays.equals(row.getBytes(3), bytes));
        }
    }

    private static void prepared(Connection connection) throws SQLException {
        List<Integer> squares = new ArrayList<>();
        try (PreparedStatement square = connection.prepareStatement("SELECT ? * ?")) {
            for (int number = 1; number <= 5; number++) {
                square.setInt(1, number);
                square.setInt(2, number);
                ResultSet row = square.executeQuery();
                row.next();
                squares.add(row.getInt(1));
            }
        }
        found("prepared", squares);
    }

    private static void transaction(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TEMP TABLE kept (n int)");
            connection.setAutoCommit(false);
            statement.execute("INSERT INTO kept VALUES (1)");
            found("error", quoted(stateOf(() -> statement.execute("SELECT 1/0"))));
            found("aborted", quoted(stateOf(() -> statement.execute("SELECT 1"))));
            connection.rollback();
            statement.execute("INSERT INTO kept VALUES (2)");
            connection.commit();
            connection.setAutoCommit(true);
            ResultSet row = statement.executeQuery("SELECT min(n), count(*) FROM kept");
            row.next();
            found("kept", List.of(row.getInt(1), row.getInt(2)));
        }
    }

    private static void batch(Connection connection) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO kept VALUES (?)")) {
            for (int number = 0; number < 500; number++) {
                insert.setInt(1, number);
                insert.addBatch();
            }
            found("batch", Arrays.stream(insert.executeBatch()).sum());
        }
    }

    private static void cursor(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        int rows = 0;
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(7); // portals that are suspended and gone on with
            ResultSet result = statement.executeQuery("SELECT generate_series(1, 100)");
            while (result.next()) {
                rows++;
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
        found("cursor", rows);
    }

    private static void copy(Connection connection) throws Exception {
        StringBuilder rows = new StringBuilder();
        for (int number = 0; number < 5000; number++) {
            rows.append(number).append("\tcopied ").append(number).append('\n');
        }
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TEMP TABLE copied (id int, words text)");
        }
        found("copied_in", copy.copyIn("COPY copied FROM STDIN", new StringReader(rows.toString())));
        StringWriter back = new StringWriter();
        copy.copyOut("COPY copied TO STDOUT", back);
        found("copied", back.toString().contentEquals(rows));
    }

    private static void notification(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("LISTEN news");
            statement.execute("NOTIFY news, 'hello'");
        }
        PGNotification[] heard = connection.unwrap(PGConnection.class).getNotifications(20_000);
        found("heard", quoted(heard[0].getParameter()));
    }

    private static void cancel(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement(); Connection other = connect(new Properties())) {
            CompletableFuture<String> outcome = CompletableFuture.supplyAsync(
                () -> stateOf(() -> statement.execute("SELECT pg_sleep(60), 'jdbc'")));
            PreparedStatement running = other.prepareStatement(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%''jdbc''' AND pid = ?");
            running.setInt(1, connection.unwrap(PGConnection.class).getBackendPID());
            ResultSet row;
            do {
                row = running.executeQuery();
                row.next();
            } while (row.getInt(1) == 0);
            statement.cancel();
            found("cancelled", quoted(outcome.get()));
        }
    }

    private static String stateOf(Work work) {
        try {
            work.run();
        } catch (SQLException refused) {
            return refused.getSQLState();
        } catch (Exception other) {
            return other.toString();
        }
        return "none";
    }

    private static void found(String name, Object value) {
        FOUND.add(quoted(name) + ": " + value);
    }

    private static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }
}
